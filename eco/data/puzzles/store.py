"""A split of puzzles on disk: memory-mapped arrays with a two-level index, group -> puzzles -> examples.

The layout is the one of the published data sets of HRM (arXiv 2506.21734) and TRM (arXiv 2510.04871), so that theirs
can be read here and ours there. A folder holds `dataset.json`, five arrays `all__*.npy` and `identifiers.json`, which
may also lie one level up, shared by the splits. What is called a puzzle there is one variant: a base puzzle or one of
its augmented copies; a group is a base puzzle with all its copies.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, PositiveInt, ValidationError

from eco.files import replacing, replacing_folder, write_json

BLANK = "<blank>"
"""Name of row 0 of the puzzle table: puzzles without a row of their own."""

_INDICES = ("puzzle_identifiers", "puzzle_indices", "group_indices")


@dataclass(frozen=True)
class Group:
    """A base puzzle and its augmented copies: V variants (the base first) of N examples, each of L tokens.

    inputs, labels: (V, N, L) uint8; 0 in `labels` is not asked for.
    names: one of each variant, under which the puzzle table has a row for it; empty: all share the blank row.
    """

    inputs: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class PuzzleSet:
    """An open split of G groups, P puzzles and E examples of L tokens; all puzzles of a group have equally many.

    inputs, labels: (E, L) small integers, memory-mapped; 0 is padding, and in `labels` what is not asked for.
    puzzle_identifiers: (P,) each puzzle's row in the puzzle table; 0 is the blank row.
    puzzle_indices: (P + 1,) examples of puzzle p are `puzzle_indices[p]` to `puzzle_indices[p + 1] - 1`.
    group_indices: (G + 1,) puzzles of group g are `group_indices[g]` to `group_indices[g + 1] - 1`.
    identifiers: the names of the rows of the puzzle table.
    """

    vocab_size: int
    inputs: NDArray[Any]
    labels: NDArray[Any]
    puzzle_identifiers: NDArray[np.int64]
    puzzle_indices: NDArray[np.int64]
    group_indices: NDArray[np.int64]
    identifiers: tuple[str, ...]

    @property
    def length(self) -> int:
        """L, tokens of an example."""
        return int(self.inputs.shape[1])


class _About(BaseModel):
    """What of `dataset.json` is read; the published sets have zeros where only 0 is understood here."""

    pad_id: Literal[0]
    ignore_label_id: Literal[0]
    blank_identifier_id: Literal[0]
    vocab_size: PositiveInt
    seq_len: PositiveInt
    num_puzzle_identifiers: PositiveInt
    sets: tuple[Literal["all"]]


def write_set(
    folder: Path, groups: Iterable[Group], *, vocab_size: int, length: int, identifiers: Sequence[str] = (BLANK,)
) -> None:
    """Writes a split to `folder`, beside it first, then in place of what is there; the grids are never all in memory.

    vocab_size: V, above every token. length: L.
    identifiers: rows of the puzzle table that exist already, such as those of the training split; names that are not
    among them get the following rows in order of appearance.

    The caller sees to it that no other process writes the same folder.

    Raises:
        ValueError: no group at all.
        OSError: the folder cannot be written, or the disk is full; nothing half-written stays under its name.
    """
    with replacing_folder(folder) as beside:
        _write(beside, groups, vocab_size, length, identifiers)


def _write(folder: Path, groups: Iterable[Group], vocab_size: int, length: int, identifiers: Sequence[str]) -> None:
    assert identifiers[0] == BLANK
    rows = {name: row for row, name in enumerate(identifiers)}
    puzzle_identifiers: list[int] = []
    puzzle_indices, group_indices = [0], [0]
    with _grids(folder / "all__inputs.npy", length) as inputs, _grids(folder / "all__labels.npy", length) as labels:
        for group in groups:
            variants, examples, _ = group.inputs.shape
            assert group.inputs.shape == group.labels.shape == (variants, examples, length)
            assert variants > 0 and examples > 0 and len(group.names) in (0, variants)
            for stream, grids in ((inputs, group.inputs), (labels, group.labels)):
                assert grids.dtype == np.uint8 and grids.max() < vocab_size
                stream.write(grids.tobytes())
            names = group.names or (BLANK,) * variants
            puzzle_identifiers += [rows.setdefault(name, len(rows)) for name in names]
            puzzle_indices += [puzzle_indices[-1] + examples * (variant + 1) for variant in range(variants)]
            group_indices.append(len(puzzle_identifiers))
    if not puzzle_identifiers:
        raise ValueError(
            f"there is no puzzle to write to {folder.parent}; ask for more, or look at where they come from"
        )
    indices = (puzzle_identifiers, puzzle_indices, group_indices)
    for name, dtype, values in zip(_INDICES, (np.int32, np.int64, np.int64), indices, strict=True):
        with replacing(folder / f"all__{name}.npy", "wb") as file:
            np.save(file, np.array(values, dtype=dtype))
    write_json(folder / "identifiers.json", list(rows))
    zeros = dict.fromkeys(("pad_id", "ignore_label_id", "blank_identifier_id"), 0)
    totals = {
        "total_groups": len(group_indices) - 1,
        "mean_puzzle_examples": puzzle_indices[-1] / len(puzzle_identifiers),
        "total_puzzles": len(puzzle_identifiers),
    }
    about = {**zeros, "vocab_size": vocab_size, "seq_len": length, "num_puzzle_identifiers": len(rows), **totals}
    write_json(folder / "dataset.json", {**about, "sets": ["all"]})


@contextmanager
def _grids(path: Path, length: int) -> Iterator[IO[bytes]]:
    """An .npy file of (n, length) uint8 to which bytes are appended; n is written into its header at the end."""

    def write_header(count: int) -> int:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, length)}
        np.lib.format.write_array_header_1_0(stream, header)
        return stream.tell()

    with open(path, "wb") as stream:
        start = write_header(0)
        yield stream
        count = (stream.tell() - start) // length
        stream.seek(0)
        end = write_header(count)
        assert end == start, "numpy pads the header so that the first dimension can grow"
        stream.flush()
        os.fsync(stream.fileno())


def open_set(folder: Path) -> PuzzleSet:
    """The split in `folder`, its grids memory-mapped. Its index is checked, its tokens are not read.

    Without an `identifiers.json` the rows of the puzzle table are named by their numbers.

    Raises:
        ValueError: a file is missing, damaged or not as the others say; the message names it.
    """
    about = _read_about(folder / "dataset.json")
    inputs, labels = (_read_array(folder, name, dimensions=2) for name in ("inputs", "labels"))
    rows, puzzles, groups = (_read_array(folder, name, dimensions=1).astype(np.int64) for name in _INDICES)
    identifiers = _read_identifiers(folder, about.num_puzzle_identifiers)
    opened = PuzzleSet(about.vocab_size, inputs, labels, rows, puzzles, groups, identifiers)
    for name, fault in _faults(opened, about.seq_len):
        raise _damaged(folder / f"all__{name}.npy", fault)
    return opened


def _faults(puzzles: PuzzleSet, length: int) -> Iterator[tuple[str, str]]:
    """Which array is wrong, and how; what is checked later relies on what was checked before."""
    examples, variants = len(puzzles.inputs), len(puzzles.puzzle_identifiers)
    for name, grids in (("inputs", puzzles.inputs), ("labels", puzzles.labels)):
        if grids.shape != (examples, length):
            yield name, f"its shape is {grids.shape}, not {(examples, length)}"
    for name, index, end in (
        ("puzzle_indices", puzzles.puzzle_indices, examples),
        ("group_indices", puzzles.group_indices, variants),
    ):
        if len(index) < 2 or index[0] != 0 or index[-1] != end or (np.diff(index) <= 0).any():
            yield name, f"it does not rise from 0 to {end}"
    if len(puzzles.puzzle_indices) != variants + 1:
        yield "puzzle_indices", f"it has {len(puzzles.puzzle_indices)} entries for {variants} puzzles"
    rows = len(puzzles.identifiers)
    if puzzles.puzzle_identifiers.min() < 0 or puzzles.puzzle_identifiers.max() >= rows:
        yield "puzzle_identifiers", f"it names rows outside of 0 to {rows - 1}"
    sizes = np.diff(puzzles.puzzle_indices)
    if (sizes != np.repeat(sizes[puzzles.group_indices[:-1]], np.diff(puzzles.group_indices))).any():
        yield "puzzle_indices", "puzzles of one group have different numbers of examples"


def _read_about(path: Path) -> _About:
    try:
        return _About.model_validate_json(path.read_bytes())
    except OSError as error:
        raise _damaged(path, f"it cannot be read ({error.strerror})") from error
    except ValidationError as error:
        fault = error.errors()[0]
        raise _damaged(path, f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}".removeprefix(": ")) from error


def _read_array(folder: Path, name: str, dimensions: int) -> NDArray[Any]:
    path = folder / f"all__{name}.npy"
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, f"it cannot be read ({error})") from error
    if array.ndim != dimensions or not np.issubdtype(array.dtype, np.integer):
        raise _damaged(path, f"it holds {array.ndim} dimensions of {array.dtype}, not {dimensions} of integers")
    return array.view(np.ndarray)  # indexing a memmap object costs more


def _read_identifiers(folder: Path, rows: int) -> tuple[str, ...]:
    path = next((p / "identifiers.json" for p in (folder, folder.parent) if (p / "identifiers.json").is_file()), None)
    if path is None:
        return (BLANK, *map(str, range(1, rows)))
    try:
        names = json.loads(path.read_bytes())
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(names, list) or len(names) != rows or not all(isinstance(name, str) for name in names):
        raise _damaged(path, f"it is not a list of {rows} names, as many as dataset.json says")
    return tuple(names)


def _damaged(path: Path, fault: str) -> ValueError:
    return ValueError(f"{path}: {fault}; the folder holds no whole set of puzzles, make it anew")
