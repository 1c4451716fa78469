"""Where sample i of an endless, seeded order comes from: pure functions of i, without memory.

`Permutation` shuffles a range of any size by a keyed Feistel network with cycle walking (Black and Rogaway, "Ciphers
with arbitrary finite domains", 2002), so epoch after epoch costs no list of indices. `Mixture` deals samples to several
stores in exact proportion.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Permutation:
    """A permutation of 0 .. size - 1, chosen by `key`."""

    def __init__(self, size: int, key: Sequence[int]) -> None:
        assert size > 0
        self._size = size
        self._half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = np.random.SeedSequence(list(key)).generate_state(_ROUNDS, np.uint64)

    def __call__(self, indices: Indices) -> Indices:
        """Where each index goes; any shape."""
        image = self._encipher(indices.astype(np.uint64))
        while (outside := image >= self._size).any():  # the network's domain is the next power of four
            image[outside] = self._encipher(image[outside])
        return image.astype(np.int64)

    def _encipher(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return left << self._half | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea and Flood, 2014): every bit depends on all others."""
    values = values + _GOLDEN  # wraps around
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


class Mixture:
    """Deals samples to stores: in every `PERIOD` of them, each store has its exact share, evenly spread."""

    PERIOD = 1000

    def __init__(self, weights: Sequence[float]) -> None:
        """
        Raises:
            ValueError: a weight below 1 / PERIOD of their sum.
        """
        quotas = _quotas(weights, self.PERIOD)
        if 0 in quotas:
            raise ValueError(f"data.mix: weight {weights[quotas.index(0)]} is below a thousandth of their sum")
        turns = sorted(((turn + 0.5) / quota, store) for store, quota in enumerate(quotas) for turn in range(quota))
        self._quotas = np.array(quotas)
        self._store = np.array([store for _, store in turns])
        self._turn = np.empty_like(self._store)
        for store, quota in enumerate(quotas):
            self._turn[self._store == store] = np.arange(quota)

    def __call__(self, indices: Indices) -> tuple[Indices, Indices]:
        """The store of each sample, and which sample of that store's own endless order it is."""
        period, turn = np.divmod(indices, self.PERIOD)
        store = self._store[turn]
        return store, period * self._quotas[store] + self._turn[turn]


def _quotas(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers that sum to `total`, as near to the weights as possible (largest remainder)."""
    exact = [weight / sum(weights) * total for weight in weights]
    quotas = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda store: quotas[store] - exact[store])
    for store in by_remainder[: total - sum(quotas)]:
        quotas[store] += 1
    return quotas
