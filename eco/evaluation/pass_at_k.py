"""pass@k: the probability that one of k completions solves a task (Chen et al., 2021, arXiv 2107.03374)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eco.evaluation.bootstrap import interval


class Checked(NamedTuple):
    """How many completions of a task were judged, and how many of them passed."""

    samples: int
    passed: int


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The unbiased estimate 1 - C(samples - passed, k) / C(samples, k) for one task.

    It is the share of all choices of k completions that hold a passing one, computed as a product of factors from 0 to
    1, so that nothing overflows and nothing cancels.

    Raises:
        ValueError: k is below 1 or above `samples`, of which no k can be chosen.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} cannot be told from {samples} samples of a task; draw at least {max(1, k)}")
    assert 0 <= passed <= samples
    if samples - passed < k:
        return 1.0
    return float(1 - np.prod(1 - k / np.arange(samples - passed + 1, samples + 1)))


class Estimate(NamedTuple):
    """A mean over `tasks` tasks with the 95 % interval of its bootstrap."""

    value: float
    low: float
    high: float
    tasks: int


def mean_pass_at_k(tasks: Sequence[Checked], k: int, seed: int) -> Estimate:
    """pass@k of a set: the mean over those of its tasks that have at least k judged completions.

    Raises:
        ValueError: no task has.
    """
    values = [pass_at_k(task.samples, task.passed, k) for task in tasks if task.samples >= k]
    if not values:
        raise ValueError(f"pass@{k} cannot be told: no task has {k} completions that were judged")
    return Estimate(float(np.mean(values)), *interval(values, seed), len(values))
