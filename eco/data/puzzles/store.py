"""A split of puzzles on disk: memory-mapped arrays with a two-level index, group -> puzzles -> examples.

The layout is the one of the published data sets of HRM (arXiv 2506.21734) and TRM (arXiv 2510.04871).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Group:
    """A base puzzle and its augmented copies: V variants (the base first) of N examples, each of L tokens.

    inputs, labels: (V, N, L) uint8; 0 in `labels` is not asked for.
    names: one of each variant, under which the puzzle table has a row for it; empty: all share the blank row.
    """

    inputs: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    names: tuple[str, ...] = ()
