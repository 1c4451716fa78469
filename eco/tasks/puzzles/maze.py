"""Mazes: mark the shortest path from the start to the goal.

The task of Maze-Hard (arXiv 2506.21734), on generated mazes of any size whose shortest path is unique, or on the
published files.
"""

from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eco.config import LocalPath, setting
from eco.data.puzzles.store import Group
from eco.tasks.puzzles.contract import Cell, Grid, PuzzleConfig, PuzzleTask, Question, Split
from eco.tasks.puzzles.grids.dihedral import MOVES, dihedral
from eco.tasks.puzzles.grids.maze_check import check
from eco.tasks.puzzles.grids.maze_files import read_mazes
from eco.tasks.puzzles.grids.maze_generator import DRAWS, draw
from eco.tasks.puzzles.grids.maze_text import parse
from eco.tasks.puzzles.grids.maze_tokens import FREE, GOAL, PATH, START, VOCAB_SIZE, WALL, canonical
from eco.tasks.verdict import Verdict

Maze = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""A question and its answer, (L,) each."""

_ROUND = 1024 // DRAWS
_BARREN = 4
"""The search for mazes ends when 1024 draws bring fewer new ones than this: it has found nearly all that there are."""


class Config(PuzzleConfig):
    """`loops` and `min_path` are of generated mazes. Paths of more than 110 cells at size 30 ask for `loops` 0."""

    puzzle: Literal["maze"] = setting("maze", "Puzzle family: mazes.", flat="puzzle")
    size: int = setting(9, "Rows and columns. Rooms lie on every other one: 9 is 5 x 5 rooms.", ge=5, le=30)
    loops: float = setting(0.1, "Share of the walls between rooms opened beyond a spanning tree.", ge=0, le=1)
    min_path: int = setting(0, "Fewest cells of a shortest path, ends included; 0: twice the size.", ge=0)
    augmentations: int = setting(
        0,
        "Turned or mirrored copies of each training maze, of which an epoch sees one.",
        flat="augmentations",
        ge=0,
        le=MOVES - 1,
    )
    path: LocalPath | None = setting(
        None, "Folder of the public Maze-Hard files, train.csv and test.csv (size 30); none: mazes are generated."
    )


def build(config: Config) -> "MazeTask":
    return MazeTask(config)


class MazeTask(PuzzleTask):
    """Tokens: 0 padding, then wall, free, start, goal, path. The label is the whole maze, walls too, as published."""

    vocab_size = VOCAB_SIZE

    def __init__(self, config: Config) -> None:
        self.shape = (config.size, config.size)
        self.files = (config.path,) if config.path else ()
        self._config = config

    def groups(self, split: Split) -> Iterator[Group]:
        """See `PuzzleTask.groups`. A training maze's copies are the symmetries of the square in their order.

        Mazes are equivalent if a symmetry of the square, or exchanging start and goal, makes one of the other. The
        held-out ones come first, so that they stay the same however many are trained on.
        """
        config, seen = self._config, set[bytes]()
        test, training = _sources(config)
        held_out = _distinct(test, config, "held_out_puzzles", seen)
        if split == "test":
            yield from (self._group(maze, 0) for maze in held_out)
            return
        for _ in held_out:
            pass
        yield from (self._group(maze, config.augmentations) for maze in _distinct(training, config, "puzzles", seen))

    def _group(self, maze: Maze, augmentations: int) -> Group:
        grids = np.stack(maze).reshape(2, *self.shape)
        copies = np.stack([dihedral(grids, move) for move in range(augmentations + 1)])
        flat = copies.reshape(len(copies), 2, 1, -1)
        return Group(inputs=flat[:, 0], labels=flat[:, 1])

    def parse(self, text: str, name: str = "") -> list[Question]:
        """Mazes as `#`, free cells (`.` or a space), one `S` and one `G`; see `maze_text.parse`."""
        return [Question(inputs) for inputs in parse(text, self._config.size)]

    def check(self, inputs: Grid, answer: Grid, label: Grid | None = None) -> Verdict:
        """Any shortest path passes, the expected one or another; see `maze_check.check`."""
        return check(inputs, answer, label)

    def cells(self, inputs: Grid, answer: Grid | None = None) -> list[list[Cell]]:
        tokens = inputs if answer is None else answer
        drawn = [_CELLS.get(token, _UNKNOWN) for token in tokens.tolist()]
        columns = self.shape[1]
        return [drawn[start : start + columns] for start in range(0, len(drawn), columns)]


_UNKNOWN = Cell("?", colour="#b00020")
_CELLS = {
    WALL: Cell("", background="#2f3640", given=True),
    FREE: Cell("", given=True),
    START: Cell("S", colour="#ffffff", background="#2e7d32", given=True),
    GOAL: Cell("G", colour="#ffffff", background="#c62828", given=True),
    PATH: Cell("o", colour="#8a6100", background="#ffe082"),
}


def _sources(config: Config) -> tuple[Iterator[Iterable[Maze]], Iterator[Iterable[Maze]]]:
    """Where the mazes to hold out and those to train on come from, in batches: the same draws, or two files."""
    if config.path is None:
        draws = _generated(config)
        return draws, draws
    test, train = (read_mazes(Path(config.path, name), config.size) for name in ("test.csv", "train.csv"))
    return iter([test]), iter([train])


def _generated(config: Config) -> Iterator[Iterable[Maze]]:
    """Endless draws; the n-th batch depends on the settings and n alone."""
    for batch in count():
        rng = np.random.default_rng((config.seed, batch))
        mazes: list[Maze] = []
        for _ in range(_ROUND):
            mazes += zip(*draw(rng, config.size, config.loops, config.min_path or 2 * config.size), strict=True)
        yield mazes


def _distinct(
    batches: Iterator[Iterable[Maze]], config: Config, wanted: Literal["puzzles", "held_out_puzzles"], seen: set[bytes]
) -> Iterator[Maze]:
    """As many mazes as the setting `wanted` says, none equivalent to another or to one whose form is in `seen`.

    Raises:
        ValueError: the batches have fewer.
    """
    target, found = getattr(config, wanted), 0
    for batch in batches:
        before = found
        for maze in batch:
            form = canonical(maze[0])
            if form not in seen:
                seen.add(form)
                found += 1
                yield maze
            if found == target:
                return
        if found - before < _BARREN:
            break
    mend = "or change data.size, data.min_path or data.loops" if config.path is None else "or give a longer file"
    raise ValueError(f"data.{wanted} asks for {target} different mazes, {found} were found; lower it, {mend}")
