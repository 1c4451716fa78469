"""Expressions in several steps, many of them modular: `Compute (3 + 5) * 2 % 7`

Level n has n + 1 operators, on numbers from 1 to 10 n - 1; divisors and moduli are from 2 to 12.
"""

from random import Random

from eco.tasks.generate.answer import compute
from eco.tasks.generate.deal import Draft, Family
from eco.tasks.generate.expression import grow


def _draw(rng: Random, level: int) -> Draft:
    return compute(grow(rng, level + 1, 10 * level - 1))


tasks = Family("expressions", 12, _draw).tasks
