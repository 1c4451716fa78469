"""The symmetries of Sudoku: what may be done to a puzzle so that it keeps its number of solutions.

Digits may be renamed, rows swapped inside a band and bands among themselves, columns and stacks likewise, and where
the boxes are square the board may be mirrored in its diagonal (Russell and Jarvis, "Mathematics of Sudoku II", 2006).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from eco.tasks.puzzles.grids.sudoku_board import Board, Cells, Digits

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Symmetries:
    """V symmetries. cells: (V, L), the cell that each one's image comes from. digits: (V, n + 1), new names."""

    cells: Cells
    digits: Digits

    def __call__(self, grids: Digits) -> Digits:
        """The images (V, L) of one grid (L,), or of a grid for each symmetry (V, L)."""
        moved = np.take_along_axis(np.broadcast_to(grids, self.cells.shape), self.cells, axis=1)
        return np.take_along_axis(self.digits, moved, axis=1)

    def inverse(self) -> "Symmetries":
        return Symmetries(self.cells.argsort(axis=1), self.digits.argsort(axis=1).astype(np.uint8))


def draw(rng: np.random.Generator, count: int, board: Board) -> Symmetries:
    """Symmetries drawn evenly from all."""
    rows = _line_orders(rng, count, bands=board.width, lines=board.height)
    columns = _line_orders(rng, count, bands=board.height, lines=board.width)
    cells = rows[:, :, None] * board.size + columns[:, None, :]
    if board.height == board.width:
        mirrored = rng.random(count) < 0.5
        cells[mirrored] = cells[mirrored].swapaxes(1, 2)
    names = rng.permuted(np.tile(np.arange(1, board.size + 1, dtype=np.uint8), (count, 1)), axis=1)
    return Symmetries(cells.reshape(count, board.length), np.pad(names, ((0, 0), (1, 0))))


def _line_orders(rng: np.random.Generator, count: int, bands: int, lines: int) -> Cells:
    """Orders of rows or columns, (count, bands x lines), that keep bands together."""
    band = rng.permuted(np.tile(np.arange(bands), (count, 1)), axis=1)
    line = rng.permuted(np.broadcast_to(np.arange(lines), (count, bands, lines)).copy(), axis=2)
    return np.asarray((band[:, :, None] * lines + line).reshape(count, bands * lines))


def all_moves(board: Board) -> Cells:
    """Every symmetry that moves cells, (V, L): 128 for 4x4, 3456 for 6x6; far too many for 9x9."""
    rows = [*_all_line_orders(bands=board.width, lines=board.height)]
    columns = [*_all_line_orders(bands=board.height, lines=board.width)]
    cells = np.array([np.add.outer(np.multiply(row, board.size), column) for row, column in product(rows, columns)])
    if board.height == board.width:
        cells = np.concatenate([cells, cells.swapaxes(1, 2)])
    return cells.reshape(len(cells), board.length)


def _all_line_orders(bands: int, lines: int) -> Iterator[list[int]]:
    for order in permutations(range(bands)):
        for inside in product(permutations(range(lines)), repeat=bands):
            yield [band * lines + line for band, within in zip(order, inside, strict=True) for line in within]


_ROUNDS = 4


def invariant(puzzles: Digits, board: Board) -> Hashes:
    """A hash of each puzzle (N, L) -> (N,) that no symmetry changes; others seldom have the same.

    Colour refinement (Weisfeiler and Leman, 1968): cells, lines, boxes and digits are renamed again and again by the
    names of what they touch, until a puzzle is the bag of its cells' names. Sums make bags, as they know no order.
    """
    size = board.size
    count = len(puzzles)
    cell = _mix((puzzles > 0).astype(np.uint64)).reshape(count, size, size)
    holds = (puzzles[:, None, :] == np.arange(1, size + 1)[:, None]).astype(np.uint64)
    lines = (np.uint64(3), np.uint64(3 if board.height == board.width else 5))  # rows are columns after mirroring
    for _ in range(_ROUNDS):
        row = _mix(cell.sum(axis=2) * lines[0])[:, :, None]
        column = _mix(cell.sum(axis=1) * lines[1])[:, None, :]
        split = cell.reshape(count, board.width, board.height, board.height, board.width)
        box = _mix(split.sum(axis=(2, 4)) * np.uint64(7)).repeat(board.height, axis=1).repeat(board.width, axis=2)
        digit = _mix((holds @ cell.reshape(count, -1, 1)) * np.uint64(9)).swapaxes(1, 2) @ holds
        cell = _mix(cell + _mix(row + column) + _mix(box + np.uint64(1)) + _mix(digit.reshape(cell.shape)))
    return np.asarray(cell.sum(axis=(1, 2)))


def _mix(values: Hashes) -> Hashes:
    """The output function of SplitMix64 (Steele, Lea and Flood, 2014): every bit depends on all others."""
    values = values + np.uint64(0x9E3779B97F4A7C15)  # wraps around
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


_AT_ONCE = 1024
"""Puzzles hashed at once: 6 MB of colours at 9x9, where the published test file would take gigabytes."""


class Seen:
    """Remembers puzzles up to symmetry by their invariants; a rare new one is taken for one seen before."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._hashes: set[int] = set()

    def admit(self, puzzles: Digits) -> NDArray[np.bool_]:
        """Which of the puzzles (N, L) are equivalent neither to one seen before nor to one before them: (N,)."""
        new = np.zeros(len(puzzles), dtype=bool)
        for start in range(0, len(puzzles), _AT_ONCE):
            hashes = invariant(puzzles[start : start + _AT_ONCE], self._board)
            for row, value in enumerate(hashes.tolist(), start):
                new[row] = value not in self._hashes
                self._hashes.add(value)
        return new
