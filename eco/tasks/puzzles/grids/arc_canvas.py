"""An ARC grid on a square canvas of tokens, and back.

0 is padding, 1 ends the grid (along its right and bottom edge, where the canvas goes on), 2 to 11 are the ten colours:
the tokens of HRM (arXiv 2506.21734) and TRM (arXiv 2510.04871).
"""

import numpy as np
from numpy.typing import NDArray

Colours = NDArray[np.uint8]
"""A grid of colours 0 to 9, (R, C) or (..., R, C)."""

END = 1
FIRST_COLOUR = 2
VOCAB_SIZE = 12


def draw(grids: Colours, size: int, tops: NDArray[np.int64], lefts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Grids (V, R, C), each with its top left cell at (tops, lefts), (V,) both -> tokens (V, size * size)."""
    count, rows, columns = grids.shape
    # One row and column more than there is: an edge at the canvas's own border needs no case of its own.
    canvas = np.zeros((count, size + 1, size + 1), np.uint8)
    each = np.arange(count)[:, None, None]
    down = tops[:, None, None] + np.arange(rows)[None, :, None]
    across = lefts[:, None, None] + np.arange(columns)[None, None, :]
    canvas[each, down, across] = grids + FIRST_COLOUR
    canvas[each, tops[:, None, None] + rows, across] = END
    canvas[each, down, lefts[:, None, None] + columns] = END
    return canvas[:, :size, :size].reshape(count, size * size)


def corner(canvas: NDArray[np.uint8]) -> tuple[int, int]:
    """Row and column of the top left cell of the grid on a canvas (S, S); (0, 0) where there is none."""
    coloured = canvas >= FIRST_COLOUR
    return int(coloured.any(axis=1).argmax()), int(coloured.any(axis=0).argmax())


def crop(canvas: NDArray[np.uint8], top: int = 0, left: int = 0) -> Colours:
    """The largest rectangle of colours alone whose top left cell is (top, left), (R, C); (0, 0) where there is none."""
    coloured = canvas[top:, left:] >= FIRST_COLOUR
    runs = np.where(coloured.all(axis=1), coloured.shape[1], coloured.argmin(axis=1))
    widths = np.minimum.accumulate(runs)
    height = int((widths * np.arange(1, len(widths) + 1)).argmax()) + 1
    width = int(widths[height - 1])
    if not width:
        return np.zeros((0, 0), np.uint8)
    return canvas[top : top + height, left : left + width] - np.uint8(FIRST_COLOUR)


def ends(canvas: NDArray[np.uint8], top: int, left: int, shape: tuple[int, int]) -> bool:
    """Whether the grid of this shape at (top, left) is closed by its edge, as far as that lies on the canvas."""
    bottom, right = top + shape[0], left + shape[1]
    below, beside = canvas[bottom : bottom + 1, left:right], canvas[top:bottom, right : right + 1]
    return bool((below == END).all() and (beside == END).all())
