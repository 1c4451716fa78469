"""The solver against brute force: all 4x4 grids, and a slow search for 9x9."""

from itertools import permutations, product

import numpy as np
import pytest

from eco.tasks.puzzles.grids.sudoku_board import BOARDS, Board, complete_units
from eco.tasks.puzzles.grids.sudoku_generator import Wanted, dig, generate
from eco.tasks.puzzles.grids.sudoku_solver import candidates, search, solve

WIKIPEDIA = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
WIKIPEDIA_ANSWER = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
INKALA_2012 = "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4.."
INKALA_ANSWER = "812753649943682175675491283154237896369845721287169534521974368438526917796318452"
SEVENTEEN = "000000010400000000020000000000050407008000300001090000300400200050100000000806000"  # Gordon Royle's list


def grid(text: str) -> np.ndarray:
    return np.array([int(character) for character in text.replace(".", "0")], dtype=np.uint8)


def all_small_grids() -> np.ndarray:
    """Every complete 4x4 grid, straight from the rules."""
    found = []
    for rows in product(permutations(range(1, 5)), repeat=4):
        columns_fit = all(len({row[c] for row in rows}) == 4 for c in range(4))
        boxes = [{rows[r + i][c + j] for i in range(2) for j in range(2)} for r in (0, 2) for c in (0, 2)]
        if columns_fit and all(len(box) == 4 for box in boxes):
            found.append(np.array(rows).reshape(-1))
    return np.array(found, dtype=np.uint8)


@pytest.fixture(scope="module")
def small_grids() -> np.ndarray:
    grids = all_small_grids()
    assert len(grids) == 288
    return grids


def slow_solutions(puzzle: np.ndarray, board: Board, limit: int) -> list[np.ndarray]:
    """Plain backtracking in the order of the cells with the fewest digits left."""

    def options(place: int) -> list[int]:
        taken = {int(d) for unit in board.units if place in unit for d in puzzle[unit]}
        return [d for d in range(1, board.size + 1) if d not in taken]

    blanks = np.flatnonzero(puzzle == 0)
    if not blanks.size:
        return [puzzle.copy()] if complete_units(puzzle, board).all() else []
    place = min(blanks.tolist(), key=lambda cell: len(options(cell)))
    found: list[np.ndarray] = []
    for digit in options(place):
        puzzle[place] = digit
        found += slow_solutions(puzzle, board, limit - len(found))
        puzzle[place] = 0
        if len(found) >= limit:
            break
    return found


@pytest.mark.parametrize("chosen", [0, 100])
def test_all_sets_of_clues_of_a_small_grid(small_grids: np.ndarray, chosen: int) -> None:
    shown = np.arange(1 << 16)[:, None] >> np.arange(16) & 1
    differs = (small_grids != small_grids[chosen]).astype(np.int64)
    expected = np.minimum((shown @ differs.T == 0).sum(axis=1), 2)
    solutions = solve((shown * small_grids[chosen]).astype(np.uint8), BOARDS[4])
    np.testing.assert_array_equal(solutions.count, expected)
    unique = solutions.count == 1
    assert (solutions.first[unique] == small_grids[chosen]).all()
    assert 0 < unique.sum() < unique.size


def test_random_clues_valid_or_not(small_grids: np.ndarray) -> None:
    rng = np.random.default_rng(5)
    clues = rng.integers(1, 5, (4000, 16)) * (rng.random((4000, 16)) < rng.uniform(0.1, 0.6, (4000, 1)))
    fits = [((small_grids == puzzle) | (puzzle == 0)).all(axis=1).sum() for puzzle in clues]
    expected = np.minimum(fits, 2)
    assert set(expected.tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(solve(clues.astype(np.uint8), BOARDS[4]).count, expected)


def test_counts_all_grids_if_it_may(small_grids: np.ndarray) -> None:
    blank = candidates(np.zeros((1, 16), dtype=np.uint8), BOARDS[4])
    assert search(blank, BOARDS[4], limit=1000).count.tolist() == [288]
    assert search(blank, BOARDS[4], limit=7).count.tolist() == [7]


@pytest.mark.parametrize(("puzzle", "answer"), [(WIKIPEDIA, WIKIPEDIA_ANSWER), (INKALA_2012, INKALA_ANSWER)])
def test_known_puzzles(puzzle: str, answer: str) -> None:
    solutions = solve(grid(puzzle)[None], BOARDS[9])
    assert solutions.count.tolist() == [1]
    np.testing.assert_array_equal(solutions.first[0], grid(answer))


def test_guesses_tell_easy_from_hard() -> None:
    guesses = solve(np.stack([grid(WIKIPEDIA), grid(INKALA_2012)]), BOARDS[9]).guesses
    assert guesses[0] == 0
    assert guesses[1] > 10


def test_seventeen_clues_are_all_needed() -> None:
    puzzle = grid(SEVENTEEN)
    fewer = np.repeat(puzzle[None], 17, axis=0)
    fewer[np.arange(17), np.flatnonzero(puzzle)] = 0
    assert solve(puzzle[None], BOARDS[9]).count.tolist() == [1]
    assert set(solve(fewer, BOARDS[9]).count.tolist()) == {2}


def test_no_solution_and_two() -> None:
    answer = grid(WIKIPEDIA_ANSWER)
    swapped = answer.copy()  # a 7 of the first row made a second 6: the row repeats it
    swapped[4] = 6
    no_place = grid("12345678" + "." * 9 + "9" + "." * 63)  # the ninth cell of the first row has no digit left
    rectangle = answer.copy()  # rows 4 and 5 swap their 9 and 1 between two boxes: both ways are right
    pairs = [
        (r1, r2, c1, c2)
        for r1, r2, c1, c2 in product(range(9), repeat=4)
        if r1 // 3 == r2 // 3 and r1 < r2 and c1 // 3 < c2 // 3
        if answer[r1 * 9 + c1] == answer[r2 * 9 + c2] and answer[r1 * 9 + c2] == answer[r2 * 9 + c1]
    ]
    r1, r2, c1, c2 = pairs[0]
    rectangle[[r1 * 9 + c1, r1 * 9 + c2, r2 * 9 + c1, r2 * 9 + c2]] = 0
    solutions = solve(np.stack([swapped, no_place, rectangle, answer]), BOARDS[9])
    assert solutions.count.tolist() == [0, 0, 2, 1]
    assert not solutions.first[:2].any()


@pytest.mark.parametrize("size", [6, 9])
def test_generated_puzzles_against_plain_backtracking(size: int) -> None:
    board = BOARDS[size]
    puzzles, answers = generate([3], 0, 6, board, Wanted((size * size // 3, size * size // 2)))
    for puzzle, answer in zip(puzzles, answers, strict=True):
        (found,) = slow_solutions(puzzle.copy(), board, limit=2)
        np.testing.assert_array_equal(found, answer)


def test_a_lane_does_not_depend_on_the_others() -> None:
    puzzles, _ = generate([1], 0, 12, BOARDS[9], Wanted())
    together = solve(puzzles, BOARDS[9])
    alone = [solve(puzzle[None], BOARDS[9]) for puzzle in puzzles]
    assert together.guesses.tolist() == [int(one.guesses[0]) for one in alone]
    assert together.guesses.any()
    np.testing.assert_array_equal(together.first, np.concatenate([one.first for one in alone]))


@pytest.mark.parametrize("size", [4, 6, 9])
def test_puzzles_dug_to_the_end_are_minimal(size: int) -> None:
    board = BOARDS[size]
    puzzles, answers = generate([0, 7], 0, 5, board, Wanted())
    assert complete_units(answers, board).all()
    for puzzle, answer in zip(puzzles, answers, strict=True):
        clues = np.flatnonzero(puzzle)
        np.testing.assert_array_equal(puzzle[clues], answer[clues])
        fewer = np.repeat(puzzle[None], len(clues), axis=0)
        fewer[np.arange(len(clues)), clues] = 0
        assert solve(puzzle[None], board).count.tolist() == [1]
        assert set(solve(fewer, board).count.tolist()) == {2}


def test_digging_stops_at_its_aim() -> None:
    puzzles, _ = generate([0], 0, 60, BOARDS[9], Wanted((40, 45)))
    assert set(np.count_nonzero(puzzles, axis=1).tolist()) == set(range(40, 46))
    answers = generate([0], 0, 1, BOARDS[9], Wanted())[1]
    whole = dig(answers, np.arange(81)[None], np.array([81]), BOARDS[9])
    np.testing.assert_array_equal(whole, answers)


def test_a_puzzle_is_the_same_however_many_are_made_at_once() -> None:
    wanted = Wanted((0, 30))
    puzzles, answers = generate([4, 2], 0, 9, BOARDS[9], wanted)
    parts = [generate([4, 2], start, count, BOARDS[9], wanted) for start, count in ((0, 4), (4, 5))]
    np.testing.assert_array_equal(puzzles, np.concatenate([part[0] for part in parts]))
    np.testing.assert_array_equal(answers, np.concatenate([part[1] for part in parts]))
    assert (generate([4, 3], 0, 9, BOARDS[9], wanted)[1] != answers).any(axis=1).all()


def test_min_guesses_keeps_the_hard_ones() -> None:
    every, _ = generate([0], 0, 40, BOARDS[9], Wanted())
    hard, _ = generate([0], 0, 40, BOARDS[9], Wanted(min_guesses=2))
    guesses = solve(every, BOARDS[9]).guesses
    assert 0 < len(hard) < 40
    np.testing.assert_array_equal(hard, every[guesses >= 2])
