"""Which rows an update learns from: all tasks alike, newer rows more often."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from eco.improvement.store.row import Row


def training_rows(rows: Sequence[Row], count: int, *, round: int, seed: int, half_life: float) -> list[Row]:
    """`count` rows in random order; the same for the same arguments.

    A row's weight halves with every `half_life` rounds of its age and is shared among the rows of its task, so that
    tasks with many answers do not outweigh the others. The draw is systematic: each row comes as often as expected,
    rounded down or up, and none twice before the weights ask for it. Without rows there is nothing to draw.
    """
    if not rows:
        return []
    rng = np.random.default_rng([seed, round])
    shuffled = [rows[index] for index in rng.permutation(len(rows))]
    of_task = Counter(row.task for row in rows)
    weights = np.array([0.5 ** ((round - row.round) / half_life) / of_task[row.task] for row in shuffled])
    upper = np.cumsum(weights / weights.sum())
    upper[-1] = 1.0  # however it was rounded, every place below has a row
    chosen = np.searchsorted(upper, (np.arange(count) + rng.random()) / count, side="right")
    return [shuffled[index] for index in rng.permutation(chosen)]
