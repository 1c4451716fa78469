"""Makes Sudokus: a random complete grid, from which clues are taken as long as the solution stays the only one.

Puzzle i of a seed is the same however many are made at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from eco.tasks.puzzles.grids.sudoku_board import Board, Cells, Digits, Sudoku
from eco.tasks.puzzles.grids.sudoku_solver import candidates, search, solve
from eco.tasks.puzzles.grids.sudoku_symmetry import Seen


@dataclass(frozen=True)
class Wanted:
    """Which puzzles are wanted. clues: fewest and most that one aims at, drawn evenly; it keeps more where all are
    needed. min_guesses: branches that a search has to take beyond singles.
    """

    clues: tuple[int, int] = (0, 0)
    min_guesses: int = 0


_LEAST, _MOST = 64, 2048
"""Puzzles made at once: enough that numpy's fixed cost per operation does not matter; 2048 take 27 MB at 9x9."""

_PATIENCE = 8192
"""Attempts without a new puzzle after which there are taken to be no more."""


def inequivalent(key: Sequence[int], count: int, board: Board, wanted: Wanted, seen: Seen) -> Iterator[Sudoku]:
    """Up to `count` puzzles, none equivalent to one that was seen; fewer when there seem to be no more. key: seeds."""
    start, found, last_new = 0, 0, 0
    while found < count and start - last_new < _PATIENCE:
        expected = (count - found) * max(start, 1) // max(found, 1)  # attempts, as settings may refuse most
        batch = min(max(expected, _LEAST), _MOST)
        puzzles, answers = generate(key, start, batch, board, wanted)
        start += batch
        new = np.flatnonzero(seen.admit(puzzles))[: count - found]
        if new.size:
            last_new = start
        found += new.size
        yield from zip(puzzles[new], answers[new], strict=True)


def generate(key: Sequence[int], start: int, count: int, board: Board, wanted: Wanted) -> tuple[Digits, Digits]:
    """Puzzles `start` to `start + count - 1` and their solutions, (N, L) each; N is less than count where puzzles were
    too easy. `key`: seeds.
    """
    first_guess = np.empty((count, board.length), dtype=np.uint8)
    order = np.empty((count, board.length), dtype=np.int64)
    aims = np.empty(count, dtype=np.int64)
    for lane in range(count):
        rng = np.random.default_rng([*key, start + lane])
        first_guess[lane] = rng.integers(1, board.size + 1, board.length)
        order[lane] = rng.permutation(board.length)
        aims[lane] = rng.integers(wanted.clues[0], wanted.clues[1] + 1)
    blank = np.zeros((count, board.length), dtype=np.uint8)
    answers = search(candidates(blank, board), board, 1, first_guess).first
    puzzles = dig(answers, order, aims, board)
    if wanted.min_guesses:
        hard = solve(puzzles, board).guesses >= wanted.min_guesses
        puzzles, answers = puzzles[hard], answers[hard]
    return puzzles, answers


def dig(answers: Digits, order: Cells, aims: Cells, board: Board) -> Digits:
    """Takes clues from complete grids (N, L), trying each cell once in the order (N, L) that is given for its grid.

    A clue can go if no other digit in its place has a solution. One that has to stay has to stay for good, as fewer
    clues only admit more solutions: a grid that does not reach its aim (N,) is minimal.
    """
    puzzles = answers.copy()
    for cell in order.T:
        lanes = np.flatnonzero(np.count_nonzero(puzzles, axis=1) > aims)
        cell = cell[lanes]
        trial = puzzles[lanes]
        trial[np.arange(lanes.size), cell] = 0
        others = candidates(trial, board)
        others[np.arange(lanes.size), cell] ^= candidates(answers[lanes, cell], board)
        free = search(others, board, limit=1).count == 0
        puzzles[lanes[free], cell[free]] = 0
    return puzzles
