"""Draws functions of a level: how much is composed."""

from functools import cache
from itertools import accumulate
from random import Random

from eco.tasks.generate.composition import Branch, Chain, Combination, Function
from eco.tasks.generate.inputs import KINDS
from eco.tasks.generate.primitive import Primitive, Step
from eco.tasks.generate.primitives import dicts, lists, numbers, strings

LEVELS = 6
"""Levels 1, 2 and 3 are chains of so many steps; 4, 5 and 6 branches and combinations of chains of one more."""

_LENGTHS = {4: (1, 2), 5: (2, 3), 6: (3, 4)}
_ADDABLE = ("number", "text", "numbers", "words")


def compose(rng: Random, level: int) -> Function | None:
    """A function of the level; None where the chains that were drawn do not fit together."""
    kind = rng.choice(KINDS)
    if level <= 3:
        return _chain(rng, kind, level)
    left, right = (_chain(rng, kind, rng.choice(_LENGTHS[level])) for _ in range(2))
    gives = left.steps[-1].primitive.gives
    if right.steps[-1].primitive.gives != gives:
        return None
    if rng.random() < 0.5:
        return Branch(kind, _step(rng, kind, "truth"), left, right)
    if gives not in _ADDABLE:
        return None
    return Combination(kind, rng.choice("+-") if gives == "number" else "+", left, right)


def _chain(rng: Random, kind: str, length: int) -> Chain:
    drawn: list[Step] = []
    while len(drawn) < length:
        last = len(drawn) == length - 1
        drawn.append(_step(rng, drawn[-1].primitive.gives if drawn else kind, "any" if last else "going on"))
    return Chain(kind, tuple(drawn))


def _step(rng: Random, kind: str, gives: str) -> Step:
    primitives, weights = _choices(kind, gives)
    return rng.choices(primitives, cum_weights=weights)[0].draw(rng)


@cache
def _choices(kind: str, gives: str) -> tuple[tuple[Primitive, ...], tuple[float, ...]]:
    """The primitives that take a kind and give a truth, anything, or something to go on with; and their summed weights.

    The weight of a primitive is the square root of the steps it stands for: between every primitive equally often,
    which repeats those without constants, and every step equally often, which hardly ever shows them.
    """
    everything = (*numbers.STEPS, *lists.STEPS, *strings.STEPS, *dicts.STEPS)
    fitting = tuple(
        primitive
        for primitive in everything
        if primitive.takes == kind and (gives == "any" or (primitive.gives == "truth") == (gives == "truth"))
    )
    return fitting, tuple(accumulate(primitive.size**0.5 for primitive in fitting))
