"""Every 4x4 Sudoku up to symmetry: there are so few that they are counted, not drawn.

The 288 complete grids fall into two classes. A puzzle is one of these grids and a set of cells that are shown; two
puzzles are equivalent if a symmetry of their grid takes one set to the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from eco.tasks.puzzles.grids.sudoku_board import BOARDS, Digits, Sudoku, complete_units
from eco.tasks.puzzles.grids.sudoku_generator import Wanted
from eco.tasks.puzzles.grids.sudoku_solver import solve
from eco.tasks.puzzles.grids.sudoku_symmetry import all_moves, draw

_BOARD = BOARDS[4]
_POWERS = 1 << np.arange(_BOARD.length)
_SETS = np.arange(1 << _BOARD.length)
_SHOWN = _SETS[:, None] >> np.arange(_BOARD.length) & 1


@dataclass(frozen=True)
class Catalogue:
    """One puzzle of each class, (N, 16), its solution, and whether each of its clues is needed, (N,)."""

    puzzles: Digits
    answers: Digits
    minimal: NDArray[np.bool_]


@cache
def catalogue() -> Catalogue:
    """All classes of puzzles with exactly one solution and at least one blank."""
    every = _complete_grids()
    images = _renamed(every[:, all_moves(_BOARD)]) @ (5 ** np.arange(_BOARD.length))
    one_of_each_class = every[np.unique(images.min(axis=1), return_index=True)[1]]
    puzzles, answers, minimal = [], [], []
    for grid in one_of_each_class:
        ambiguous = _ambiguous_sets(grid, every)
        needed = np.ones_like(ambiguous)
        for power in _POWERS:
            needed &= ambiguous[_SETS & ~power] | (_SETS & power == 0)
        chosen = _class_representatives(grid) & ~ambiguous & (_SETS[-1] != _SETS)
        puzzles.append((_SHOWN[chosen] * grid).astype(np.uint8))
        answers.append(np.broadcast_to(grid, puzzles[-1].shape))
        minimal.append(needed[chosen])
    return Catalogue(np.concatenate(puzzles), np.concatenate(answers), np.concatenate(minimal))


def choose(wanted: Wanted, count: int, key: Sequence[int]) -> list[Sudoku]:
    """Up to `count` pairwise inequivalent puzzles in random order and form; there may be fewer that are wanted.

    Each number of clues gives as many as the others as long as it has them. key: seeds.
    """
    known = catalogue()
    clues = np.count_nonzero(known.puzzles, axis=1)
    fewest, most = wanted.clues
    fits = (fewest <= clues) & ((clues <= most) | known.minimal)
    fits &= solve(known.puzzles, _BOARD).guesses >= wanted.min_guesses
    rng = np.random.default_rng(key)
    shuffled = rng.permutation(np.flatnonzero(fits))
    turn = np.zeros(len(shuffled))
    for number in np.unique(clues[shuffled]):
        same = np.flatnonzero(clues[shuffled] == number)
        turn[same] = np.arange(len(same))
    chosen = rng.permutation(shuffled[turn.argsort(kind="stable")][:count])
    forms = draw(rng, len(chosen), _BOARD)
    return [*zip(forms(known.puzzles[chosen]), forms(known.answers[chosen]), strict=True)]


def _complete_grids() -> Digits:
    """All of them, (288, 16), in lexicographic order."""
    rows = [*permutations(range(1, _BOARD.size + 1))]
    grids = np.array([*product(rows, repeat=_BOARD.size)], dtype=np.uint8).reshape(-1, _BOARD.length)
    return grids[complete_units(grids, _BOARD).all(axis=1)]


def _renamed(grids: Digits) -> NDArray[np.int64]:
    """Digits named in the order of their first appearance, 1 first: equal for grids that differ by names only."""
    first = (grids[..., None, :] == np.arange(1, _BOARD.size + 1)[:, None]).argmax(axis=-1)  # (..., digit)
    names = first.argsort(axis=-1).argsort(axis=-1) + 1
    return np.asarray(np.take_along_axis(names, grids.astype(np.int64) - 1, axis=-1))


def _ambiguous_sets(grid: Digits, every: Digits) -> NDArray[np.bool_]:
    """Which sets of shown cells, as bits, leave more solutions than `grid`: those within what another grid shares."""
    shared = (every == grid) @ _POWERS
    ambiguous = np.zeros(_SETS.size, dtype=bool)
    ambiguous[shared[shared != _SETS[-1]]] = True
    for power in _POWERS:
        ambiguous[_SETS & ~power] |= ambiguous[_SETS | power]
    return ambiguous


def _class_representatives(grid: Digits) -> NDArray[np.bool_]:
    """Which sets of cells are the smallest, as bits, of those that the symmetries of the grid make of them."""
    moves = all_moves(_BOARD)
    own = moves[(_renamed(grid[moves]) == _renamed(grid)).all(axis=1)]
    smallest = _SETS.copy()
    for move in own:
        np.minimum(smallest, _SHOWN[:, move] @ _POWERS, out=smallest)
    return np.asarray(smallest == _SETS)
