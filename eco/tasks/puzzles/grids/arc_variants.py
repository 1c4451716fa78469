"""Augmented copies of an ARC task: a symmetry of the square and a permutation of the colours, told by the copy's name.

The names are those of the published data sets (HRM, arXiv 2506.21734; TRM, arXiv 2510.04871):
`id|||t<symmetry>|||<what becomes of colours 0 to 9>`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eco.tasks.puzzles.grids import colours
from eco.tasks.puzzles.grids.arc_canvas import Colours
from eco.tasks.puzzles.grids.dihedral import MOVES, dihedral, inverse

SEPARATOR = "|||"
PUBLISHED = (0, 1, 2, 3, 4, 6, 7, 5)
"""The move that each published number means: 4 to 7 mirror left to right, upside down, along the two diagonals."""

RETRIES = 5
"""Draws for each copy wanted: a symmetric task has fewer different copies than draws."""


@dataclass(frozen=True)
class Variants:
    """V ways to see a task, the first of them as it is. moves: (V,); colours: (V, 10), what becomes of each."""

    moves: NDArray[np.int64]
    colours: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.moves)

    def keep(self, rows: Sequence[int]) -> "Variants":
        """Only the variants `rows`."""
        return Variants(self.moves[list(rows)], self.colours[list(rows)])

    def names(self, task: str) -> tuple[str, ...]:
        """The name of each; the first is the task's own."""
        return (task, *(copy_name(task, m, c) for m, c in zip(self.moves[1:], self.colours[1:], strict=True)))

    def views(self, grid: Colours) -> Iterator[tuple[NDArray[np.int64], Colours]]:
        """For each move the variants that make it, (W,), and what they see of a grid (R, C): (W, R, C) or turned."""
        for move in range(MOVES):
            rows = np.flatnonzero(self.moves == move)
            if len(rows):
                yield rows, dihedral(self.colours[rows][:, grid], move)


def choose(pairs: Sequence[tuple[Colours, Colours]], copies: int, generator: np.random.Generator) -> Variants:
    """The task as it is and up to `copies` random views that differ from it and from each other on `pairs`.

    Fewer where `RETRIES` draws for each do not find them: black squares look the same from all sides.
    """
    as_it_is = Variants(np.zeros(1, np.int64), np.arange(10, dtype=np.uint8)[None])
    drawn = Variants(
        np.concatenate([as_it_is.moves, generator.integers(MOVES, size=RETRIES * copies)]),
        np.concatenate([as_it_is.colours, colours.permutations(RETRIES * copies, generator)]),
    )
    seen: dict[tuple[bytes, ...], int] = {}
    # In rounds: most tasks have enough in the first.
    for first in range(0, len(drawn), copies + 1):
        rows = range(first, min(first + copies + 1, len(drawn)))
        for row, looks in zip(rows, _looks(pairs, drawn.keep(rows)), strict=True):
            seen.setdefault(looks, row)
        if len(seen) > copies:
            break
    return drawn.keep(list(seen.values())[: copies + 1])


def copy_name(task: str, move: int, permutation: NDArray[np.uint8]) -> str:
    """The name of the copy of `task` that is moved and recoloured so."""
    digits = "".join(map(str, permutation.tolist()))
    return SEPARATOR.join((task, f"t{PUBLISHED.index(move)}", digits))


def undo(name: str, grid: Colours) -> tuple[str, Colours]:
    """The task's own name, and a grid (R, C) of the copy `name` in the task's own frame and colours."""
    task, *way = name.split(SEPARATOR)
    if not way:
        return task, grid
    symmetry, digits = way
    back = inverse(PUBLISHED[int(symmetry[1:])])
    return task, dihedral(colours.inverse(np.array(list(digits), dtype=np.uint8))[grid], back)


def _looks(pairs: Sequence[tuple[Colours, Colours]], variants: Variants) -> list[tuple[bytes, ...]]:
    """What each variant makes of the pairs, whatever their order: equal for variants that cannot be told apart."""
    looks: list[list[bytes]] = [[] for _ in range(len(variants))]
    for before, after in pairs:
        for (rows, inputs), (_, outputs) in zip(variants.views(before), variants.views(after), strict=True):
            shape = bytes(inputs.shape[1:] + outputs.shape[1:])
            for row, one, other in zip(rows, inputs, outputs, strict=True):
                looks[row].append(shape + one.tobytes() + other.tobytes())
    return [tuple(sorted(pairs)) for pairs in looks]


def canonical(before: Colours, after: Colours) -> bytes:
    """The same for two pairs if and only if a symmetry and a permutation of colours 1 to 9 make one the other."""
    forms: list[bytes] = []
    for move in range(MOVES):
        pair = dihedral(before, move), dihedral(after, move)
        cells = np.concatenate([grid.ravel() for grid in pair])
        found, first = np.unique(cells[cells > 0], return_index=True)
        renamed = np.zeros(10, np.uint8)
        renamed[found[np.argsort(first)]] = np.arange(1, len(found) + 1)
        forms.append(bytes(pair[0].shape + pair[1].shape) + renamed[cells].tobytes())
    return min(forms)
