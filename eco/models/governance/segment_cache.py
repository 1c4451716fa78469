"""What a model that reads its window segment by segment keeps while it does: between two segments, and two calls."""

from itertools import pairwise

import torch
from torch import Tensor

from eco.models.governance.memory import MemorySlots
from eco.models.layers.cache import KVCache


class SegmentCache:
    """The slots that the segment in hand began with, and what it has shown so far (see `eco.models.contract.Cache`).

    A segment ends with its last token, but the slots are written when a token follows: the last segment's are not.

    memory: (B, M, width), the slots; M is 0 for a model without memory.
    kv: keys and values of the segment in hand and of the slots before it, for M + `segment` positions; None for a pass
        whose calls bring whole segments, as in training.
    """

    def __init__(self, segment: int, memory: Tensor, kv: KVCache | None = None) -> None:
        self.segment, self.memory, self.kv = segment, memory, kv
        self.length = 0
        self.hidden = memory[:, :0]
        """(B, tokens of the segment in hand, width), the final hidden states."""

    def cut(self, count: int) -> list[int]:
        """The next `count` tokens as the lengths of pieces, none of which crosses the end of a segment."""
        end = self.length + count
        next_segment = self.length - self.length % self.segment + self.segment
        places = [self.length, *range(next_segment, end, self.segment), end]
        return [after - before for before, after in pairwise(places)]

    def open(self, slots: MemorySlots | None) -> tuple[Tensor, Tensor | None]:
        """Called before each piece. Returns the vectors that stand in front of it: the slots (B, M, width) where a
        segment begins, otherwise (B, 0, width); and, where slots were written for that, how open their gates were."""
        gate = None
        if self.hidden.shape[1] == self.segment:
            if slots is not None:
                self.memory, gate = slots.write(self.memory, self.hidden)
            self.hidden = self.hidden[:, :0]
            if self.kv is not None:
                self.kv.length = 0
        return self.memory if self.hidden.shape[1] == 0 else self.memory[:, :0], gate

    def close(self, hidden: Tensor) -> None:
        """Called behind each piece with the final hidden states (B, T, width) of its tokens."""
        self.hidden = torch.cat([self.hidden.to(hidden.dtype), hidden], 1)
        self.length += hidden.shape[1]

    def keep(self, rows: Tensor) -> None:
        """Keeps only the batch rows `rows` (int64 indices), in that order."""
        self._select(rows)
        if self.kv is not None:
            self.kv.keep(rows)

    def branch(self, rows: Tensor, count: int, shared: bool) -> None:
        """See `eco.models.contract.Cache`. Nothing is shared: there is no fused step that could read it. However many
        tokens follow, the cache stays as it is, one segment long."""
        assert not shared
        self._select(rows)
        if self.kv is not None:
            self.kv.branch(rows, self.kv.capacity - self.kv.length, shared)

    def _select(self, rows: Tensor) -> None:
        self.memory, self.hidden = self.memory[rows], self.hidden[rows]
