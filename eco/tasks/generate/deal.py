"""Deals a family's random drafts into the splits "train" and "held_out", which no seed can mix.

The split of a draft is decided by the hash of what it means, and of nothing else: not by the seed, the level, or the
number of tasks asked for. So whatever two calls ask for, what one gives as held out the other never gives to train on.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import xxhash

from eco.tasks.contract import Split, Task

_HELD_OUT = 10
"""One meaning in ten is held out."""

_PATIENCE = 20
"""A family is taken to be exhausted when this many times as many draws as it has drafts bring nothing new: of N equally
likely drafts, one is still unseen then with probability N exp(-20)."""


@dataclass(frozen=True)
class Draft:
    """A task before the costly part of making it.

    meaning: equal for all drafts that ask the same, in whatever words (`3 + 5` and `5 + 3`); decides the split.
    wording: drafts of equal wording are one task, of which a call returns one.
    finish: makes the task, given its name; None if no fair task comes of this draft.
    """

    meaning: str
    wording: str
    finish: Callable[[str], Task | None]


@dataclass(frozen=True)
class Family:
    """name: the set's. levels: the highest. draw: one draft of a level, or None where the dice fell badly."""

    name: str
    levels: int
    draw: Callable[[Random, int], Draft | None]

    def tasks(self, split: Split, count: int, *, level: int = 1, seed: int = 0, path: str | None = None) -> list[Task]:
        """What a set of tasks offers, see `eco.tasks.contract`: the first `count` different tasks in the order of the
        seed; more are the same ones and others after them.

        Raises:
            ValueError: a path, a level or a count that the family does not have.
        """
        if path is not None:
            raise ValueError(f"{self.name} is generated and reads no file: leave out the path {path!r}")
        if not 1 <= level <= self.levels:
            raise ValueError(f"{self.name} has the levels 1 to {self.levels}, not {level}")
        if count < 1:
            raise ValueError(f"{count} tasks of {self.name} were asked for: ask for at least one")
        found: list[Task] = []
        for draft in self._different(level, seed):
            if (split == "held_out") == held_out(draft.meaning):
                task = draft.finish(f"{self.name}:{level}/{xxhash.xxh3_64_hexdigest(draft.wording.encode())}")
                if task is not None:
                    found.append(task)
                    if len(found) == count:
                        return found
        raise ValueError(f"{self.name} has {len(found)} {split} tasks of level {level}, not {count}: ask for fewer")

    def _different(self, level: int, seed: int) -> Iterator[Draft]:
        """The drafts in the order of the seed, each once."""
        rng = Random(f"{self.name} {level} {seed}")
        seen = set[str]()
        barren = 0
        while barren < 1000 + _PATIENCE * len(seen):
            barren += 1
            draft = self.draw(rng, level)
            if draft is not None and draft.wording not in seen:
                seen.add(draft.wording)
                barren = 0
                yield draft


def held_out(meaning: str) -> bool:
    """Whether what has this meaning is never trained on."""
    return xxhash.xxh3_64_intdigest(meaning.encode()) % _HELD_OUT == 0
