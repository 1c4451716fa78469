"""The ten colours of ARC: how they are shown, and how they change places."""

import numpy as np
from numpy.typing import NDArray

PALETTE = (
    "#000000",
    "#0074d9",
    "#ff4136",
    "#2ecc40",
    "#ffdc00",
    "#aaaaaa",
    "#f012be",
    "#ff851b",
    "#7fdbff",
    "#870c25",
)
"""What the ARC-AGI viewer draws 0 to 9 with."""


def permutations(count: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """(count, 10): what becomes of each colour. 0, the background of most tasks, keeps its place."""
    colours = np.tile(np.arange(10, dtype=np.uint8), (count, 1))
    return np.concatenate([colours[:, :1], generator.permuted(colours[:, 1:], axis=1)], axis=1)


def inverse(permutation: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(10,): the permutation that undoes `permutation` (10,)."""
    return np.argsort(permutation).astype(np.uint8)
