"""Expressions in several steps, many of them modular: `Compute (3 + 5) * 2 % 7`

Level n has n + 1 operators, on numbers from 1 to 10 n - 1; divisors and moduli are from 2 to 12.
"""

from random import Random

from eco.tasks.contract import Split, Task
from eco.tasks.generate.answer import compute
from eco.tasks.generate.deal import Draft, Family
from eco.tasks.generate.expression import grow


def tasks(split: Split, count: int, *, level: int = 1, seed: int = 0, path: str | None = None) -> list[Task]:
    """See `eco.tasks.contract`.

    Raises:
        ValueError: fewer tasks than `count`, no such level, or a path.
    """
    return _FAMILY.tasks(split, count, level, seed, path)


def _draw(rng: Random, level: int) -> Draft:
    return compute(grow(rng, level + 1, 10 * level - 1))


_FAMILY = Family("expressions", 12, _draw)
