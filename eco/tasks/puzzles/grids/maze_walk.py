"""How far the cells of one maze are from a cell, by plain breadth-first search: what judging an answer needs."""

import numpy as np
from numpy.typing import NDArray


def steps_from(start: int, passable: NDArray[np.bool_]) -> dict[int, int]:
    """Steps to every cell that can be reached, itself included, nearest first. passable: (L,), a square grid."""
    size = round(len(passable) ** 0.5)
    open_cells = passable.tolist()
    steps = {start: 0}
    queue = [start]
    for here in queue:
        row, column = divmod(here, size)
        for inside, beyond in (
            (column > 0, here - 1),
            (column < size - 1, here + 1),
            (row > 0, here - size),
            (row < size - 1, here + size),
        ):
            if inside and open_cells[beyond] and beyond not in steps:
                steps[beyond] = steps[here] + 1
                queue.append(beyond)
    return steps
