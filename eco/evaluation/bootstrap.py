"""How far off a mean over tasks may be: the percentile bootstrap (Efron, Annals of Statistics 7, 1979)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000

_CELLS = 1 << 22
"""Numbers drawn at a time, 32 MiB of them."""


def interval(values: ArrayLike, seed: int, confidence: float = 0.95) -> tuple[float, float]:
    """Between which means `confidence` of the resamples of `values` (N,) lie, each N values drawn with replacement.

    Of two measurements on the same tasks, give the differences task by task: resampled together, what is hard stays
    hard in both, so that this paired interval is narrower than that of two means that know nothing of each other.

    It says how much the figure would differ on other tasks of the same kind. Where all values are equal it has no
    width, which then says nothing of other tasks: a model that passes none of ten tasks may pass the eleventh.

    Raises:
        ValueError: there are no values.
    """
    return _between(_means(values, RESAMPLES, np.random.default_rng([seed])), confidence)


def interval_over_runs(runs: Sequence[ArrayLike], seed: int, confidence: float = 0.95) -> tuple[float, float]:
    """`interval` of the mean over several runs, each with values of its own (N,): runs are drawn with replacement, and
    then the values of each, so that what differs from run to run widens it. Of one run it is that run's.

    Raises:
        ValueError: there is no run, or one without values.
    """
    if not runs:
        raise ValueError("nothing was measured: an interval needs at least one run")
    generator = np.random.default_rng([seed])
    own = np.stack([_means(values, RESAMPLES * len(runs), generator).reshape(RESAMPLES, -1) for values in runs])
    drawn = generator.integers(len(runs), size=(RESAMPLES, len(runs)))
    return _between(np.take_along_axis(own, drawn[None], 0)[0].mean(1), confidence)


def _means(values: ArrayLike, resamples: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """(resamples,) means of N values each, drawn with replacement from `values` (N,)."""
    measured = np.asarray(values, dtype=np.float64)
    if not len(measured):
        raise ValueError("nothing was measured: an interval needs at least one task")
    block = max(1, _CELLS // len(measured))
    means = [
        measured[generator.integers(len(measured), size=(min(block, resamples - first), len(measured)))].mean(1)
        for first in range(0, resamples, block)
    ]
    return np.concatenate(means)


def _between(means: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
