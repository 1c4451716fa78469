"""Samples with their labels: the stream and the held-out windows, each batch of which has the entries of `Labels`."""

from collections.abc import Sequence

import numpy as np
import torch

from eco.data.labels import Labels
from eco.data.stream import Batch, Stream, Windows


class LabelledStream:
    """The samples of `stream` with those of `labels`, one for each of its parts."""

    def __init__(self, stream: Stream, labels: Sequence[Labels]) -> None:
        self._stream, self._labels = stream, labels

    def batch(self, index: int, count: int) -> Batch:
        """Samples `index` to `index + count - 1`, see `Stream.batch`."""
        batch = self._stream.batch(index, count)
        parts, windows = self._stream.places(index, count)
        order = np.argsort(parts, kind="stable")
        found = [
            labels.batch(windows[order][parts[order] == part].tolist())
            for part, labels in enumerate(self._labels)
            if (parts == part).any()
        ]
        back = torch.from_numpy(np.argsort(order))
        return batch | {name: torch.cat([rows[name] for rows in found])[back] for name in found[0]}


class LabelledWindows:
    """The held-out `windows` with their labels."""

    def __init__(self, windows: Windows, labels: Labels) -> None:
        self._windows, self._labels = windows, labels

    def __len__(self) -> int:
        return len(self._windows)

    def batch(self, index: int, count: int) -> Batch:
        """Windows `index` to `index + count - 1`, see `Windows.batch`."""
        batch = self._windows.batch(index, count)
        return batch | self._labels.batch(range(index, index + len(batch["tokens"])))
