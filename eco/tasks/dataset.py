"""The puzzles of a recipe as memory-mapped sets, made once and kept in the cache."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path

import xxhash
from filelock import FileLock

from eco import __version__
from eco.data.puzzles.store import BLANK, PuzzleSet, open_set, write_set
from eco.machine import cache_folder
from eco.tasks.puzzles.contract import PuzzleConfig, PuzzleTask

_PUZZLE_FILES = (".json", ".csv")

_BLOCK = 1 << 22
"""Bytes read at a time to digest a file."""


@dataclass(frozen=True)
class Puzzles:
    """Both splits of a recipe's puzzles. content: names what they were made from.

    The rows of the test split's puzzle table are those of the training split, which come first, and its own.
    """

    train: PuzzleSet
    test: PuzzleSet
    content: str


def open_puzzles(
    config: PuzzleConfig, task: PuzzleTask, cache: Path | None = None, say: Callable[[str], None] = lambda _: None
) -> Puzzles:
    """The puzzles from the cache; those that are not there yet are made first. Of several processes one works.

    Raises:
        ValueError: see `PuzzleTask.groups`; or the cache cannot be written.
    """
    content = _digest(config, task)
    folder = (cache_folder() if cache is None else cache) / f"puzzles-{content}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            opened = _open(folder, content)
            if opened is None:
                started = time.perf_counter()
                _write(task, folder)
                opened = Puzzles(open_set(folder / "train"), open_set(folder / "test"), content)
                say(f"{config.puzzle} puzzles made in {time.perf_counter() - started:.1f} s")
                for reason, number in task.left_out.items():
                    if number:
                        say(f"left out: {number} {reason}")
    except OSError as error:
        raise ValueError(f"cannot write puzzles to {folder}: {error}; free space, or set ECO_CACHE") from error
    say(
        f"{config.puzzle}: {len(opened.train.group_indices) - 1} puzzles to train on in "
        f"{len(opened.train.puzzle_identifiers)} variants, {len(opened.test.group_indices) - 1} held out"
    )
    return opened


def _open(folder: Path, content: str) -> Puzzles | None:
    with suppress(ValueError):  # not there, or damaged
        return Puzzles(open_set(folder / "train"), open_set(folder / "test"), content)
    return None


def _write(task: PuzzleTask, folder: Path) -> None:
    sizes = {"vocab_size": task.vocab_size, "length": prod(task.shape)}
    write_set(folder / "train", task.groups("train"), **sizes, identifiers=(BLANK,))
    write_set(folder / "test", task.groups("test"), **sizes, identifiers=open_set(folder / "train").identifiers)


def _digest(config: PuzzleConfig, task: PuzzleTask) -> str:
    """Of the settings, of the files that they name, and of the version that makes puzzles of them."""
    digest = xxhash.xxh3_128()
    digest.update(f"{__version__} {config.model_dump_json(exclude={'workers'})}".encode())
    for path in map(Path, task.files):
        for file in [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in _PUZZLE_FILES):
            _update(digest, file, str(file.relative_to(path.parent)))
    return digest.hexdigest()


def _update(digest: xxhash.xxh3_128, file: Path, name: str) -> None:
    if file.is_file():
        digest.update(f"{name} {file.stat().st_size} ".encode())  # an ARC task is called as its file
        with open(file, "rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
