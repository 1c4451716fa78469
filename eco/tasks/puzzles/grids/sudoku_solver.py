"""Solves many Sudokus at once: propagation of singles, and where they do not suffice a depth-first search in lockstep.

A state says for each cell which digits it may still hold: bit d - 1 for digit d. States lie as (rows, columns, lanes)
with a puzzle in each lane, so that every operation runs over contiguous lanes. In a round each lane does what it has to
do next, be it another pass of propagation, a guess, or a step back; lanes that are done leave.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eco.tasks.puzzles.grids.sudoku_board import Board, Digits

Candidates = NDArray[np.uint16]
"""Digits that are possible: bit d - 1 for digit d."""

Flags = NDArray[np.bool_]

_BITS = np.array([state.bit_count() for state in range(1 << 9)], dtype=np.uint8)
"""How many candidates a state of a cell has."""


@dataclass(frozen=True)
class Solutions:
    """count: (N,), solutions found, up to the limit. first: (N, L), the first one; blank where there is none.

    guesses: (N,), branches that the search took until it had found `count` solutions or knew that there are no more;
    0 where singles suffice.
    """

    count: NDArray[np.int64]
    first: Digits
    guesses: NDArray[np.int64]


def solve(puzzles: Digits, board: Board) -> Solutions:
    """Solves puzzles (N, L), counting up to 2 solutions. Contradictory puzzles have none."""
    return search(candidates(puzzles, board), board, limit=2)


def candidates(puzzles: Digits, board: Board) -> Candidates:
    """What the clues alone say of each cell: (N, L)."""
    table = np.array([(1 << board.size) - 1, *(1 << digit for digit in range(board.size))], dtype=np.uint16)
    return np.asarray(table[puzzles])


def search(start: Candidates, board: Board, limit: int, first_guess: Digits | None = None) -> Solutions:
    """Looks for up to `limit` solutions that the candidates (N, L) allow.

    first_guess: (N, L), the digit (from 1 on) that is tried first in a cell, the next higher ones following; random
    ones make random grids. Without it, guesses ascend from 1. What a lane finds does not depend on the others.
    """
    lanes = _Lanes(start, board, limit, first_guess)
    while lanes.live.size:
        lanes.round()
    return Solutions(lanes.count, lanes.first, lanes.guesses)


class _Lanes:
    """Searches under way. `live`: the puzzle in each lane; the rest of the arrays is by puzzle."""

    def __init__(self, start: Candidates, board: Board, limit: int, first_guess: Digits | None) -> None:
        count, length = start.shape
        self._board, self._limit, self._first_guess = board, limit, first_guess
        self._state = start.T.copy()
        self._stack = np.empty((count, length, length), dtype=np.uint16)
        self._depth = np.zeros(count, dtype=np.int64)
        self.live = np.arange(count)
        self.count = np.zeros(count, dtype=np.int64)
        self.first = np.zeros((count, length), dtype=np.uint8)
        self.guesses = np.zeros(count, dtype=np.int64)

    def round(self) -> None:
        """One pass of propagation everywhere, then a guess where it changed nothing, a step back where it ended."""
        changed, dead = propagate(self._state.reshape(self._board.size, self._board.size, -1), self._board)
        resting = np.flatnonzero(~changed & ~dead)
        open_cells = _BITS[self._state[:, resting]] > 1
        solved = ~open_cells.any(axis=0)
        self._guess(resting[~solved])
        self._record(resting[solved])
        self._step_back(np.concatenate([resting[solved], np.flatnonzero(dead)]))

    def _guess(self, lanes: NDArray[np.int64]) -> None:
        """Takes one candidate of the cell that has the fewest, and leaves the others for later."""
        puzzle = self.live[lanes]
        state = self._state[:, lanes]
        open_bits = _BITS[state]
        cell = np.where(open_bits > 1, open_bits, 99).argmin(axis=0)
        options = state[cell, np.arange(lanes.size)]
        skipped = (self._first_guess[puzzle, cell] - 1).astype(np.uint16) if self._first_guess is not None else 0
        rotated = options >> skipped << skipped
        preferred = np.where(rotated, rotated, options)
        guess = preferred & (~preferred + np.uint16(1))
        self._state[cell, lanes] = guess
        state[cell, np.arange(lanes.size)] = options ^ guess
        self._stack[puzzle, self._depth[puzzle]] = state.T
        self._depth[puzzle] += 1
        self.guesses[puzzle] += 1

    def _record(self, lanes: NDArray[np.int64]) -> None:
        puzzle = self.live[lanes]
        new = self.count[puzzle] == 0
        self.first[puzzle[new]] = _BITS[self._state[:, lanes[new]] - np.uint16(1)].T + np.uint8(1)
        self.count[puzzle] += 1

    def _step_back(self, lanes: NDArray[np.int64]) -> None:
        """Takes up what was left for later; lanes where nothing is left, or enough was found, leave."""
        puzzle = self.live[lanes]
        ended = (self._depth[puzzle] == 0) | (self.count[puzzle] >= self._limit)
        back, again = lanes[~ended], puzzle[~ended]
        self._depth[again] -= 1
        self._state[:, back] = self._stack[again, self._depth[again]].T
        if ended.any():
            stays = np.ones(self.live.size, dtype=bool)
            stays[lanes[ended]] = False
            self.live = self.live[stays]
            self._state = np.ascontiguousarray(self._state[:, stays])


def propagate(state: Candidates, board: Board) -> tuple[Flags, Flags]:
    """One pass of naked and hidden singles over states (n, n, lanes), in place: (changed, contradictory) by lane.

    A state that is neither changed nor contradictory has no more singles to follow, and no unit repeats a digit.
    """
    before = state.copy()
    known = state * (state & (state - np.uint16(1)) == 0)  # products, as `where` with a mask costs ten times more
    used, alone = np.zeros_like(state), np.zeros_like(state)
    full = np.uint16((1 << board.size) - 1)
    wrong = np.zeros(state.shape[-1], dtype=np.uint16)  # digits without a place, or with two, in some unit
    for positions in (_rows, _columns, _boxes):
        seen, repeated = _seen(positions(known, board))
        wrong |= _any_of(repeated)
        _spread(used, seen, positions, board)
        seen, repeated = _seen(positions(state, board))
        wrong |= _any_of(seen ^ full)
        _spread(alone, seen & ~repeated, positions, board)
    state &= ~used | known
    alone &= state
    wrong |= _any_of(alone & (alone - np.uint16(1)))  # two digits that have no other place than one cell
    state &= alone | (alone == 0) * full
    return _any_of(state ^ before) != 0, (wrong != 0) | (state.min(axis=(0, 1)) == 0)


def _any_of(states: Candidates) -> Candidates:
    """The union of a lane's states, (lanes,)."""
    return np.asarray(np.bitwise_or.reduce(states.reshape(-1, states.shape[-1])))


Positions = Callable[[Candidates, Board], list[Candidates]]
"""Views of a state: item k is the k-th cell of every unit of one kind."""


def _rows(state: Candidates, board: Board) -> list[Candidates]:
    return [state[:, k] for k in range(board.size)]


def _columns(state: Candidates, board: Board) -> list[Candidates]:
    return list(state)


def _boxes(state: Candidates, board: Board) -> list[Candidates]:
    split = state.reshape(board.width, board.height, board.height, board.width, -1)
    return [split[:, i, :, j] for i in range(board.height) for j in range(board.width)]


def _seen(cells: list[Candidates]) -> tuple[Candidates, Candidates]:
    """Digits that occur in each unit, and those that occur more than once."""
    seen, repeated = cells[0].copy(), np.zeros_like(cells[0])
    for cell in cells[1:]:
        repeated |= seen & cell
        seen |= cell
    return seen, repeated


def _spread(onto: Candidates, units: Candidates, positions: Positions, board: Board) -> None:
    """Adds each unit's digits to all its cells."""
    for cell in positions(onto, board):
        cell |= units
