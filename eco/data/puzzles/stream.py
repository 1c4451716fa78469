"""Samples of puzzles for training and measurement: examples of a puzzle set as tensors.

A batch has `tokens` and `targets` (B, L) int64, the latter IGNORE where nothing is asked, and `puzzle` (B,) int64, each
sample's row in the puzzle table.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from eco.data.order import Indices, Permutation
from eco.data.puzzles.store import PuzzleSet
from eco.data.stream import IGNORE, Batch

_EPOCHS_KEPT = 4  # orders in memory: of the epoch being read, and of those that threads read ahead


class PuzzleStream:
    """An endless, seeded order of training examples. Its whole state is the index of the next sample.

    An epoch shuffles the groups, draws one puzzle of each (the base puzzle or an augmented copy), and deals all its
    examples, shuffled but together, as the published implementation does: the puzzle's row in the table then gets one
    gradient from all of them. Sample i depends on i, the set and the seed, and on nothing else: not on who asks, or how
    many at a time. Threads may share a stream.
    """

    def __init__(self, puzzles: PuzzleSet, seed: int) -> None:
        self._puzzles = puzzles
        self._seed = seed
        self._first = puzzles.group_indices[:-1]
        self._variants = np.diff(puzzles.group_indices)
        sizes = np.diff(puzzles.puzzle_indices)[self._first]
        self._starts = np.cumsum(sizes) - sizes
        self._group = np.repeat(np.arange(len(sizes)), sizes)
        self._examples = lru_cache(_EPOCHS_KEPT)(self._deal)

    def __len__(self) -> int:
        """Samples in one epoch: the examples of one puzzle of each group."""
        return len(self._group)

    def batch(self, index: int, count: int) -> Batch:
        """Samples `index` to `index + count - 1`."""
        epochs, positions = np.divmod(np.arange(index, index + count), len(self))
        first, last = int(epochs[0]), int(epochs[-1])
        examples = [self._examples(epoch)[positions[epochs == epoch]] for epoch in range(first, last + 1)]
        return _gather(self._puzzles, np.concatenate(examples))

    def _deal(self, epoch: int) -> Indices:
        """The examples of an epoch in their order.

        A slot is an example's place in a group, whichever variant is drawn; slots are numbered group by group.
        """
        groups, slots = len(self._variants), len(self)
        turn = Permutation(groups, (self._seed, 0, epoch))(np.arange(groups))
        shuffled = Permutation(slots, (self._seed, 1, epoch))(np.arange(slots))
        shuffled = shuffled[np.argsort(turn[self._group[shuffled]], kind="stable")]
        draws = np.random.SeedSequence((self._seed, 2, epoch)).generate_state(groups, np.uint64)
        variant = (draws % self._variants.astype(np.uint64)).astype(np.int64)
        group = self._group[shuffled]
        offset: Indices = self._puzzles.puzzle_indices[self._first + variant] - self._starts
        return offset[group] + shuffled


class PuzzleExamples:
    """The examples of a set in the order in which they lie there: what measurement reads.

    group, variant, example: (E,) of each one, its group, its puzzle's number in that group (0 is the base puzzle) and
    its own number in that puzzle.
    """

    def __init__(self, puzzles: PuzzleSet) -> None:
        sizes, variants = np.diff(puzzles.puzzle_indices), np.diff(puzzles.group_indices)
        puzzle = np.repeat(np.arange(len(sizes)), sizes)
        self.group: Indices = np.repeat(np.arange(len(variants)), variants)[puzzle]
        self.variant: Indices = puzzle - puzzles.group_indices[self.group]
        self.example: Indices = np.arange(len(puzzle)) - puzzles.puzzle_indices[puzzle]
        self._puzzles = puzzles

    def select(self, examples: Indices) -> Batch:
        """The examples of these numbers, (B,), in their order."""
        return _gather(self._puzzles, examples)


def _gather(puzzles: PuzzleSet, examples: Indices) -> Batch:
    puzzle = np.searchsorted(puzzles.puzzle_indices, examples, side="right") - 1
    targets = _tensor(puzzles.labels[examples])
    return {
        "tokens": _tensor(puzzles.inputs[examples]),
        "targets": targets.masked_fill_(targets == 0, IGNORE),
        "puzzle": _tensor(puzzles.puzzle_identifiers[puzzle]),
    }


def _tensor(values: NDArray[np.integer]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int64))
