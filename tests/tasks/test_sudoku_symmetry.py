"""Symmetries, what they keep, and the catalogue of 4x4 against brute force over all 3072 of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco.tasks.puzzles.grids.sudoku_board import BOARDS, complete_units
from eco.tasks.puzzles.grids.sudoku_catalogue import Catalogue, catalogue
from eco.tasks.puzzles.grids.sudoku_generator import Wanted, generate
from eco.tasks.puzzles.grids.sudoku_solver import solve
from eco.tasks.puzzles.grids.sudoku_symmetry import Seen, all_moves, draw, invariant

SIZES = st.sampled_from([4, 6, 9])
SEEDS = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def known() -> Catalogue:
    return catalogue()


def smallest_form(puzzles: np.ndarray) -> np.ndarray:
    """The canonical form of 4x4 puzzles, (N,): the smallest image under all moves, digits named as they appear."""
    best = np.full(len(puzzles), np.iinfo(np.int64).max)
    for move in all_moves(BOARDS[4]):
        moved = puzzles[:, move]
        names = np.zeros((len(puzzles), 5), dtype=np.int64)
        last = np.zeros(len(puzzles), dtype=np.int64)
        code = np.zeros(len(puzzles), dtype=np.int64)
        for digit in moved.T:
            now = names[np.arange(len(puzzles)), digit]
            new = (digit > 0) & (now == 0)
            last += new
            names[np.flatnonzero(new), digit[new]] = last[new]
            code = code * 5 + np.where(new, last, now)
        best = np.minimum(best, code)
    return best


@settings(max_examples=60, deadline=None)
@given(SIZES, SEEDS)
def test_the_inverse_undoes(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    board = BOARDS[size]
    symmetries = draw(rng, 5, board)
    grids = rng.integers(0, size + 1, (5, board.length)).astype(np.uint8)
    np.testing.assert_array_equal(symmetries.inverse()(symmetries(grids)), grids)
    np.testing.assert_array_equal(symmetries(symmetries.inverse()(grids)), grids)
    np.testing.assert_array_equal(symmetries(grids[0]), symmetries(np.repeat(grids[:1], 5, axis=0)))


@settings(max_examples=15, deadline=None)
@given(SIZES, st.integers(0, 50))
def test_what_a_symmetry_keeps(size: int, seed: int) -> None:
    board = BOARDS[size]
    puzzles, answers = generate([seed], 0, 1, board, Wanted((size * 3, size * 3)))
    symmetries = draw(np.random.default_rng(seed), 20, board)
    images, solved = symmetries(puzzles[0]), symmetries(answers[0])
    assert complete_units(solved, board).all()
    solutions = solve(images, board)
    assert (solutions.count == 1).all()
    np.testing.assert_array_equal(solutions.first, solved)
    assert set(invariant(images, board).tolist()) == set(invariant(puzzles, board).tolist())


@pytest.mark.parametrize(("size", "moves"), [(4, 128), (6, 3456)])
def test_all_moves_are_a_group_that_keeps_units(size: int, moves: int) -> None:
    board = BOARDS[size]
    every = all_moves(board)
    codes = {move.tobytes() for move in every}
    assert len(codes) == len(every) == moves
    assert {every[1][move].tobytes() for move in every} == codes
    units = {frozenset(unit.tolist()) for unit in board.units}
    for move in every[:: moves // 64]:
        assert {frozenset(move[unit].tolist()) for unit in board.units} == units


def test_draws_reach_everything() -> None:
    drawn = draw(np.random.default_rng(0), 4000, BOARDS[4])
    assert {cells.tobytes() for cells in drawn.cells} == {move.tobytes() for move in all_moves(BOARDS[4])}
    assert len(np.unique(drawn.digits, axis=0)) == 24
    assert not drawn.digits[:, 0].any()


@pytest.mark.parametrize("size", [6, 9])
def test_one_clue_more_or_another_digit_changes_the_invariant(size: int) -> None:
    board = BOARDS[size]
    puzzles, answers = generate([0], 0, 30, board, Wanted((size * 3, size * 3)))
    blanks = [int(np.flatnonzero(puzzle == 0)[0]) for puzzle in puzzles]
    more = puzzles.copy()
    more[np.arange(30), blanks] = answers[np.arange(30), blanks]
    assert len(np.unique(np.concatenate([invariant(puzzles, board), invariant(more, board)]))) == 60
    other = puzzles.copy()  # as many clues in the same cells
    clue = [int(np.flatnonzero(puzzle)[0]) for puzzle in puzzles]
    other[np.arange(30), clue] = other[np.arange(30), clue] % size + 1
    assert (invariant(other, board) != invariant(puzzles, board)).all()


def test_boxes_that_are_not_square_are_not_mirrored() -> None:
    board = BOARDS[6]
    puzzle = np.zeros((1, 36), dtype=np.uint8)
    puzzle[0, :3] = 1, 2, 3
    mirrored = puzzle.reshape(6, 6).T.reshape(1, 36)
    assert invariant(mirrored, board) != invariant(puzzle, board)
    nine = np.zeros((1, 81), dtype=np.uint8)
    nine[0, :4] = 1, 2, 3, 4
    assert invariant(nine.reshape(9, 9).T.reshape(1, 81), BOARDS[9]) == invariant(nine, BOARDS[9])


def test_seen_refuses_equivalents_in_one_batch_and_later() -> None:
    board = BOARDS[9]
    puzzles, _ = generate([0], 0, 4, board, Wanted((30, 30)))
    images = draw(np.random.default_rng(0), 4, board)(puzzles)
    seen = Seen(board)
    assert seen.admit(np.concatenate([puzzles[:2], images[:2]])).tolist() == [True, True, False, False]
    assert seen.admit(images).tolist() == [False, False, True, True]


def test_the_catalogue_has_each_class_once(known: Catalogue) -> None:
    forms = smallest_form(known.puzzles)
    assert len(known.puzzles) == 4708
    assert len(np.unique(forms)) == 4708
    assert len(np.unique(known.answers, axis=0)) == 2
    solutions = solve(known.puzzles, BOARDS[4])
    assert (solutions.count == 1).all()
    np.testing.assert_array_equal(solutions.first, known.answers)


def test_the_catalogue_has_every_class(known: Catalogue) -> None:
    forms = smallest_form(known.puzzles)
    dug = np.concatenate([generate([seed], 0, 150, BOARDS[4], Wanted((0, 15)))[0] for seed in range(4)])
    assert np.isin(smallest_form(dug), forms).all()


def test_minimal_puzzles_of_the_catalogue(known: Catalogue) -> None:
    """36 classes, of 4, 5 and 6 clues: 13, 22 and 1."""
    minimal = known.puzzles[known.minimal]
    assert np.bincount(np.count_nonzero(minimal, axis=1)).tolist() == [0, 0, 0, 0, 13, 22, 1]
    for puzzle in minimal:
        clues = np.flatnonzero(puzzle)
        fewer = np.repeat(puzzle[None], len(clues), axis=0)
        fewer[np.arange(len(clues)), clues] = 0
        assert (solve(fewer, BOARDS[4]).count == 2).all()
