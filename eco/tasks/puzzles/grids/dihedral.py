"""The eight symmetries of the square, the dihedral group D4, on grids of any shape.

Move k turns a grid k mod 4 quarter turns anticlockwise; moves 4 to 7 then mirror it left to right. Move 0 changes
nothing.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)

MOVES = 8


def dihedral(grid: NDArray[Scalar], move: int) -> NDArray[Scalar]:
    """Grids (..., R, C), moved: (..., R, C), or (..., C, R) after an odd number of turns. A view where numpy can."""
    assert 0 <= move < MOVES
    turned = np.rot90(grid, move % 4, axes=(-2, -1))
    return turned[..., ::-1] if move >= 4 else turned


def inverse(move: int) -> int:
    """The move that undoes `move`: the turn back; a reflection undoes itself."""
    assert 0 <= move < MOVES
    return move if move >= 4 else -move % 4
