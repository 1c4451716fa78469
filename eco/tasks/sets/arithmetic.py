"""One operation on two numbers: `Compute 17 // 5`; the level is the digits of the longer number.

Python's `//` and `%`, of numbers that are not negative; differences may be. Level 1 is 480 tasks.
"""

from random import Random

from eco.tasks.generate.answer import compute
from eco.tasks.generate.deal import Draft, Family
from eco.tasks.generate.expression import operate


def _draw(rng: Random, level: int) -> Draft | None:
    symbol = rng.choice(("+", "-", "*", "//", "%"))
    digits = [level, rng.randint(1, level)]
    if symbol not in ("//", "%"):  # a short number divided by a long one asks for nothing
        rng.shuffle(digits)
    left, right = (rng.randrange(10 ** (d - 1) if d > 1 else 0, 10**d) for d in digits)
    if right == 0 and symbol in ("//", "%"):
        return None
    return compute(operate(symbol, left, right))


tasks = Family("arithmetic", 20, _draw).tasks
