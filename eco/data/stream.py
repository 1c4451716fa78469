"""Samples for training and measurement: windows of a token store as tensors.

A sample is `window` inputs and the `window` tokens that follow each of them. The windows of a part lie end to end, so
in one epoch every token (but the first, which only opens the part) is a target exactly once; the last window is filled
with padding, whose targets are IGNORE. Documents are not cut out of windows: a window may hold the end of one and the
start of the next, with an end-of-text token between.
"""

from collections.abc import Sequence

import numpy as np
import torch

from eco.data.order import Indices, Mixture, Permutation
from eco.data.store import Part
from eco.data.tokenizer import Tokenizer

IGNORE = -100
"""The target of padding: no loss (the default `ignore_index` of PyTorch's cross-entropy)."""

Batch = dict[str, torch.Tensor]


class _Buffer:
    """A batch to be filled, all padding at first; in plain arrays, as copying small tensors costs more than reading."""

    def __init__(self, count: int, window: int, pad: int) -> None:
        self.tokens = np.full((count, window), pad, dtype=np.int64)
        self.targets = np.full((count, window), IGNORE, dtype=np.int64)

    def tensors(self) -> Batch:
        return {"tokens": torch.from_numpy(self.tokens), "targets": torch.from_numpy(self.targets)}


class Windows:
    """The windows of one part in the order of the text: what held-out measurement reads."""

    def __init__(self, part: Part, window: int, tokenizer: Tokenizer) -> None:
        self._part = part
        self._window = window
        self._pad = tokenizer.pad

    def __len__(self) -> int:
        return -(-self._part.targets // self._window)

    def batch(self, index: int, count: int) -> Batch:
        """Windows `index` to `index + count - 1`, fewer at the end of the part: `tokens`, `targets` (B, T) int64."""
        indices = range(index, min(index + count, len(self)))
        batch = _Buffer(len(indices), self._window, self._pad)
        for row, window in enumerate(indices):
            self.copy(window, batch, row)
        return batch.tensors()

    def copy(self, index: int, batch: _Buffer, row: int) -> None:
        """Writes window `index` into a row of a batch."""
        span = self._part.tokens[index * self._window : (index + 1) * self._window + 1]
        batch.tokens[row, : len(span) - 1] = span[:-1]
        batch.targets[row, : len(span) - 1] = span[1:]


class Stream:
    """An endless, seeded order of training windows. Its whole state is the index of the next sample.

    Each part is dealt in epochs, every epoch shuffled anew; several parts are mixed by `weights`. Sample i depends on
    i, the parts, the weights, the window and the seed, and on nothing else: not on who asks, or how many at a time.
    """

    def __init__(
        self, parts: Sequence[Part], window: int, tokenizer: Tokenizer, seed: int, weights: Sequence[float] = (1.0,)
    ) -> None:
        """
        window: T, targets of a sample.

        Raises:
            ValueError: a weight too small to be served.
        """
        assert len(parts) == len(weights)
        self.window = window
        self.targets = sum(part.targets for part in parts)
        self._parts = [Windows(part, window, tokenizer) for part in parts]
        self._sizes = np.array([len(part) for part in self._parts])
        self._mixture = Mixture(weights)
        self._pad = tokenizer.pad
        self._seed = seed

    def __len__(self) -> int:
        """Windows in one epoch of all parts."""
        return sum(map(len, self._parts))

    def check_batch(self, count: int) -> None:
        """Refuses a step of more samples than there are.

        Raises:
            ValueError: the parts have fewer windows than `count`.
        """
        if len(self) < count:
            raise ValueError(
                f"the corpus is smaller than a batch: one step takes {count} samples of {self.window} tokens "
                f"({count * self.window} tokens), the training part has {self.targets} tokens ({len(self)} samples); "
                "give more text, or lower the batch size, the accumulation or the context"
            )

    def batch(self, index: int, count: int) -> Batch:
        """Samples `index` to `index + count - 1`: `tokens` (count, T) and `targets` (count, T), both int64."""
        stores, windows = self.places(index, count)
        batch = _Buffer(count, self.window, self._pad)
        for row, (store, window) in enumerate(zip(stores.tolist(), windows.tolist(), strict=True)):
            self._parts[store].copy(window, batch, row)
        return batch.tensors()

    def places(self, index: int, count: int) -> tuple[Indices, Indices]:
        """Of each of these samples, the part and the window of that part, (count,) both."""
        stores, turns = self._mixture(np.arange(index, index + count))
        epochs, positions = np.divmod(turns, self._sizes[stores])
        windows = np.empty_like(positions)
        for store, epoch in sorted({*zip(stores.tolist(), epochs.tolist(), strict=True)}):
            rows = np.flatnonzero((stores == store) & (epochs == epoch))
            shuffle = Permutation(len(self._parts[store]), (self._seed, store, epoch))
            windows[rows] = shuffle(positions[rows])
        return stores, windows
