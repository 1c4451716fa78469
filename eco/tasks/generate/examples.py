"""What a function does, as calls: a few to show, and the hidden ones that decide."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from eco.tasks.generate.composition import Function, differs, written
from eco.tasks.generate.inputs import EDGES, draw
from eco.tasks.generate.mutation import mutants

_POOL = 60
_SHOWN = 3
_HIDDEN = 10


@dataclass(frozen=True)
class Example:
    """A value to call the function with, and what it returns."""

    given: Any
    expected: Any


@dataclass(frozen=True)
class Examples:
    """No value is in both. Of the hidden ones, no constant answer and no copy of the input is right on most."""

    shown: tuple[Example, ...]
    hidden: tuple[Example, ...]


def examples(rng: Random, function: Function) -> Examples | None:
    """Random examples; None if they are not telling.

    The special values are among the hidden ones, and every bug of `mutants` shows in a hidden one; a bug that shows on
    none of `_POOL` values, or of all numbers, is taken to be none.
    """
    given = draw(rng, function.kind, 200 if function.kind == "number" else _POOL)
    pool = [Example(value, result) for value, result in zip(given, function.apply(given), strict=True)]
    shown = _varied(pool[EDGES:], _SHOWN, 1)
    rest = [example for example in pool if example not in shown]
    hidden = _varied(rest, _HIDDEN, _HIDDEN // 2)
    for mutant in mutants(function.signature + function.body):
        solve = compiled(mutant)
        if all(agrees(solve, example) for example in hidden):
            hidden += next(([example] for example in rest if not agrees(solve, example)), [])
    if not differs([example.given for example in hidden], [example.expected for example in hidden], 0.7):
        return None
    return Examples(tuple(shown), tuple(hidden))


def compiled(source: str) -> Callable[[Any], Any]:
    """`solve` of a program that we wrote ourselves."""
    names: dict[str, Any] = {}
    exec(compile(source, "<generated>", "exec"), names)
    function: Callable[[Any], Any] = names["solve"]
    return function


def agrees(solve: Callable[[Any], Any], example: Example) -> bool:
    """Whether a function of ours returns what is expected; one that raises does not."""
    try:
        return written(solve(example.given)) == written(example.expected)
    except Exception:  # a planted bug may raise anything
        return False


def _varied(pool: Sequence[Example], count: int, repeats: int) -> list[Example]:
    """The first examples of the pool of which no more than `repeats` have the same result; then the first others."""
    times = Counter[str]()
    chosen: list[Example] = []
    others: list[Example] = []
    for example in pool:
        result = written(example.expected)
        times[result] += 1
        (chosen if times[result] <= repeats else others).append(example)
    return (chosen + others)[:count]
