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


class Windows:
    """The windows of one part in the order of the text: what held-out measurement reads."""

    def __init__(self, part: Part, window: int, tokenizer: Tokenizer) -> None:
        self._part = part
        self._window = window
        self._pad = tokenizer.pad
        self._token_lengths = tokenizer.token_lengths

    def __len__(self) -> int:
        return -(-self._part.targets // self._window)

    def batch(self, index: int, count: int) -> Batch:
        """Windows `index` to `index + count - 1`, fewer at the end of the part; see `gather`."""
        return self.gather(np.arange(index, min(index + count, len(self))))

    def gather(self, indices: Indices) -> Batch:
        """`tokens` (B, T) and `targets` (B, T), both int64, of the windows at `indices` (B,)."""
        window = self._window
        tokens = np.full((len(indices), window), self._pad, dtype=np.int64)
        targets = np.full((len(indices), window), IGNORE, dtype=np.int64)
        for row, index in enumerate(indices.tolist()):
            span = self._part.tokens[index * window : (index + 1) * window + 1]
            tokens[row, : len(span) - 1] = span[:-1]
            targets[row, : len(span) - 1] = span[1:]
        return {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(targets)}

    def text_bytes(self, index: int, count: int) -> int:
        """UTF-8 bytes of the targets of `batch(index, count)`: the divisor of bits per byte."""
        span = self._part.tokens[index * self._window + 1 : (index + count) * self._window + 1]
        return int(self._token_lengths[span].sum())


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
        self._seed = seed

    def __len__(self) -> int:
        """Windows in one epoch of all parts."""
        return sum(map(len, self._parts))

    def check_batch(self, count: int) -> None:
        """Refuses a step of `count` samples that holds some sample twice.

        Raises:
            ValueError: the parts have fewer windows than that.
        """
        if len(self) < count:
            raise ValueError(
                f"the corpus is smaller than a batch: one step takes {count} samples of {self.window} tokens "
                f"({count * self.window} tokens), the training part has {self.targets} tokens ({len(self)} samples); "
                "give more text, or lower the batch size, the accumulation or the context"
            )

    def batch(self, index: int, count: int) -> Batch:
        """Samples `index` to `index + count - 1`: `tokens` (count, T) and `targets` (count, T), both int64."""
        stores, turns = self._mixture(np.arange(index, index + count))
        epochs, positions = np.divmod(turns, self._sizes[stores])
        shape = (count, self.window)
        batch = {key: torch.empty(shape, dtype=torch.int64) for key in ("tokens", "targets")}
        for store, epoch in sorted({*zip(stores.tolist(), epochs.tolist(), strict=True)}):
            rows = np.flatnonzero((stores == store) & (epochs == epoch))
            shuffle = Permutation(len(self._parts[store]), (self._seed, store, epoch))
            windows = self._parts[store].gather(shuffle(positions[rows]))
            for key, values in windows.items():
                batch[key][torch.from_numpy(rows)] = values
        return batch
