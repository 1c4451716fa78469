"""One operation on two numbers: `Compute 17 // 5`; the level is the digits of the longer number.

Python's `//` and `%`, of numbers that are not negative; differences may be. Level 1 is 480 tasks.
"""

from random import Random

from eco.tasks.contract import Split, Task
from eco.tasks.generate.answer import compute
from eco.tasks.generate.deal import Draft, Family
from eco.tasks.generate.expression import operate


def tasks(split: Split, count: int, *, level: int = 1, seed: int = 0, path: str | None = None) -> list[Task]:
    """See `eco.tasks.contract`.

    Raises:
        ValueError: fewer tasks than `count`, no such level, or a path.
    """
    return _FAMILY.tasks(split, count, level, seed, path)


def _draw(rng: Random, level: int) -> Draft | None:
    symbol = rng.choice(("+", "-", "*", "//", "%"))
    digits = [level, rng.randint(1, level)]
    if symbol not in ("//", "%"):  # a short number divided by a long one asks for nothing
        rng.shuffle(digits)
    left, right = (rng.randrange(10 ** (d - 1) if d > 1 else 0, 10**d) for d in digits)
    if right == 0 and symbol in ("//", "%"):
        return None
    return compute(operate(symbol, left, right))


_FAMILY = Family("arithmetic", 20, _draw)
