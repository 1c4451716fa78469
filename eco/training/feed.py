"""Gives each step its samples: a row whose sample the model carries on keeps it, every other row gets the next one."""

from collections.abc import Callable, Iterator

import torch

from eco.models.contract import Batch, Carry


class Feed:
    """This process's rows of each global batch.

    source: position -> endless iterator over batches of these rows, from that sample number on.

    Samples are dealt in their order and none is left out: the number of the next one, `position`, and the `rows` in
    work are all that a resume has to know of the data.
    """

    def __init__(self, source: Callable[[int], Iterator[Batch]], samples_per_step: int) -> None:
        self.position = 0
        self.rows: Batch = {}
        self._source = source
        self._samples_per_step = samples_per_step
        self._batches: Iterator[Batch] | None = None
        self._spare: Batch = {}

    def next(self, carry: Carry | None) -> Batch:
        """The rows of the next step; with a carry also `fresh`, the rows that are new."""
        if carry is None:
            self.rows = self._take(self._read())
            self.position += self._samples_per_step
            return self.rows
        done = carry["halted"]
        rows = done.nonzero().flatten()
        fresh = self._take(len(rows))
        self.rows = {name: old.index_copy(0, rows, fresh[name]) for name, old in self.rows.items()}
        self.position += len(rows)
        return {**self.rows, "fresh": done}

    def _read(self) -> int:
        """Puts a batch of the source to the spare samples; returns how many it has."""
        if self._batches is None:
            self._batches = self._source(self.position)
        read = next(self._batches)
        spare = self._spare
        self._spare = {name: torch.cat([spare[name], new]) for name, new in read.items()} if spare else read
        return len(read["tokens"])

    def _take(self, count: int) -> Batch:
        """The next `count` samples; what is left of a batch waits for the next call."""
        while not self._spare or len(self._spare["tokens"]) < count:
            self._read()
        taken = {name: spare[:count] for name, spare in self._spare.items()}
        left = {name: spare[count:] for name, spare in self._spare.items()}
        self._spare = left if len(left["tokens"]) else {}
        return taken
