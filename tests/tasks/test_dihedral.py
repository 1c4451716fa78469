"""The symmetries of the square: inverses, closure, and what each does to a cell."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from eco.tasks.puzzles.grids.dihedral import MOVES, dihedral, inverse

GRIDS = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=4, max_side=6))
MOVE = st.integers(0, MOVES - 1)


@given(GRIDS, MOVE)
def test_inverse_undoes_a_move(grid: np.ndarray, move: int) -> None:
    np.testing.assert_array_equal(dihedral(dihedral(grid, move), inverse(move)), grid)


@given(GRIDS, MOVE)
def test_every_cell_goes_where_the_definition_says(grid: np.ndarray, move: int) -> None:
    expected = grid.tolist()
    for _ in range(move % 4):
        expected = _leading(
            expected, grid.ndim - 2, lambda rows: [list(column) for column in zip(*rows, strict=True)][::-1]
        )
    if move >= 4:
        expected = _leading(expected, grid.ndim - 2, lambda rows: [row[::-1] for row in rows])
    assert dihedral(grid, move).tolist() == expected


def test_the_eight_moves_are_different_and_closed() -> None:
    grid = np.arange(9).reshape(3, 3)
    images = {dihedral(grid, move).tobytes() for move in range(MOVES)}
    assert len(images) == MOVES
    assert {dihedral(dihedral(grid, a), b).tobytes() for a in range(MOVES) for b in range(MOVES)} == images


def _leading(nested, depth, change):  # type: ignore[no-untyped-def]
    """`change` of every innermost grid of nested lists."""
    return change(nested) if depth == 0 else [_leading(part, depth - 1, change) for part in nested]
