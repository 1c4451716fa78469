"""Gives each step its samples: a row whose sample the model carries on keeps it, every other row gets the next one."""

from collections.abc import Callable, Iterator

import torch

from eco.models.contract import Batch, Carry
from eco.training.distributed import World


class Feed:
    """This process's rows of each global batch.

    source: position -> endless iterator over batches of these rows, from that sample number on.

    Samples are dealt in their order and none is left out: the number of the next one, `position`, and the `rows` in
    work are all that a resume has to know of the data.
    """

    def __init__(self, source: Callable[[int], Iterator[Batch]], samples_per_step: int, world: World) -> None:
        self.position = 0
        self.rows: Batch = {}
        self._source = source
        self._samples_per_step = samples_per_step
        self._world = world
        self._batches: Iterator[Batch] | None = None
        self._spare: Batch = {}

    def next(self, carry: Carry | None) -> Batch:
        """The rows of the next step; with a carry also `fresh`, the rows that are new.

        Raises:
            ValueError: the model carries samples on and several processes train; they would share out the samples
                differently from one.
        """
        if carry is None:
            self.rows = self._read()
            self.position += self._samples_per_step
            return self.rows
        if self._world.size > 1:
            raise ValueError("a model that works on a sample over several steps trains in one process; leave torchrun")
        done = carry["halted"]
        rows = done.nonzero().flatten()
        fresh = self._take(len(rows))
        self.rows = {name: old.index_copy(0, rows, fresh[name]) for name, old in self.rows.items()}
        self.position += len(rows)
        return {**self.rows, "fresh": done}

    def _read(self) -> Batch:
        if self._batches is None:
            self._batches = self._source(self.position)
        return next(self._batches)

    def _take(self, count: int) -> Batch:
        """The next `count` samples; what is left of a batch waits for the next call."""
        while not self._spare or len(self._spare["tokens"]) < count:
            read = self._read()
            self._spare = {name: torch.cat([self._spare.get(name, new[:0]), new]) for name, new in read.items()}
        taken = {name: spare[:count] for name, spare in self._spare.items()}
        self._spare = {name: spare[count:] for name, spare in self._spare.items()}
        return taken
