"""Several answers to one question, of which the most frequent count: what augmented copies are for at test time."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ballot = tuple[tuple[int, ...], bytes]
"""A grid's shape and cells."""

Ranks = Mapping[tuple[int, int], int | None]
"""(task, question) -> what `Votes.rank` says."""


class Votes:
    """Answers to questions, each a grid of any shape. Each evaluation has its own, so that it measures one checkpoint.

    The published evaluator kept its votes from one evaluation to the next and so scored an ensemble of checkpoints.
    """

    def __init__(self) -> None:
        self._polls: dict[Hashable, dict[Ballot, tuple[int, float]]] = {}

    def cast(self, question: Hashable, grid: NDArray[Any], confidence: float) -> None:
        """One answer to a question. An empty grid is none, but the question stays one that was asked."""
        poll = self._polls.setdefault(question, {})
        if grid.size:
            count, total = poll.get(_ballot(grid), (0, 0.0))
            poll[_ballot(grid)] = count + 1, total + confidence

    def rank(self, question: Hashable, truth: NDArray[Any]) -> int | None:
        """How many other answers go before the right one; None where nobody gave it.

        More votes go first, then a higher mean confidence, then what was cast first (as in arXiv 2510.04871).
        """
        poll = self._polls[question]
        order = sorted(poll, key=lambda ballot: (poll[ballot][0], poll[ballot][1] / poll[ballot][0]), reverse=True)
        return order.index(_ballot(truth)) if _ballot(truth) in poll else None


def task_shares(ranks: Ranks, attempts: int) -> list[float]:
    """For each task the share of its questions that one of the first `attempts` answers solves."""
    solved: dict[int, list[bool]] = {}
    for (task, _), rank in ranks.items():
        solved.setdefault(task, []).append(rank is not None and rank < attempts)
    return [sum(questions) / len(questions) for questions in solved.values()]


def _ballot(grid: NDArray[Any]) -> Ballot:
    return grid.shape, np.asarray(grid, dtype=np.uint8).tobytes()
