"""How far off a mean over tasks may be: the percentile bootstrap (Efron, Annals of Statistics 7, 1979)."""

import numpy as np
from numpy.typing import ArrayLike

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
    measured = np.asarray(values, dtype=np.float64)
    if not len(measured):
        raise ValueError("nothing was measured: an interval needs at least one task")
    generator = np.random.default_rng([seed])
    block = max(1, _CELLS // len(measured))
    means = [
        measured[generator.integers(len(measured), size=(min(block, RESAMPLES - first), len(measured)))].mean(1)
        for first in range(0, RESAMPLES, block)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
