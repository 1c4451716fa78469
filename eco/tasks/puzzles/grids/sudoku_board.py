"""A Sudoku's board: its boxes and its units. Grids hold digits, 0 for a blank, row by row: L = size x size cells."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Digits = NDArray[np.uint8]
"""0 for a blank, 1..n: (L,) or (N, L)."""

Sudoku = tuple[Digits, Digits]
"""A puzzle and its solution, (L,) each."""

Cells = NDArray[np.int64]
"""Numbers of cells, 0 .. L - 1."""


@dataclass(frozen=True)
class Board:
    """`height` and `width` are those of a box, in cells: a box holds as many as a row."""

    height: int
    width: int

    @property
    def size(self) -> int:
        """n: cells of a row, of a column and of a box, and digits."""
        return self.height * self.width

    @property
    def length(self) -> int:
        """L, cells of the board."""
        return self.size**2

    @property
    def units(self) -> Cells:
        """The cells of every row, then column, then box: (3 n, n)."""
        rows = np.arange(self.length).reshape(self.size, self.size)
        boxes = rows.reshape(self.width, self.height, self.height, self.width).swapaxes(1, 2)
        return np.concatenate([rows, rows.T, boxes.reshape(self.size, self.size)])

    def unit_name(self, unit: int) -> str:
        """What people call a row of `units`: `column 3`."""
        kind, number = divmod(unit, self.size)
        return f"{('row', 'column', 'box')[kind]} {number + 1}"


BOARDS = {4: Board(2, 2), 6: Board(2, 3), 9: Board(3, 3)}
"""By size."""


def complete_units(grids: Digits, board: Board) -> NDArray[np.bool_]:
    """Which units hold every digit once: grids (..., L) -> (..., 3 n), in the order of `Board.units`."""
    ordered = np.sort(grids[..., board.units], axis=-1)
    return np.asarray((ordered == np.arange(1, board.size + 1)).all(axis=-1))
