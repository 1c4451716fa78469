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
_UNSEEN = 0.05
"""Share of the bugs that no value need show."""


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

    The special values are among the hidden ones, and of the bugs of `mutants` nearly all show in a hidden one. A
    function of which many bugs show on none of `_POOL` values, or of all numbers, has parts that hardly matter.
    """
    values = pool(rng, function)
    shown = _varied(values[EDGES:], _SHOWN, 1)
    rest = [example for example in values if example not in shown]
    hidden = _varied(rest, _HIDDEN, _HIDDEN // 2)
    if not _show(mutants(function.signature + function.body), hidden, rest):
        return None
    if not differs([example.given for example in hidden], [example.expected for example in hidden], 0.7):
        return None
    return Examples(tuple(shown), tuple(hidden))


def pool(rng: Random, function: Function) -> list[Example]:
    """All numbers, or `_POOL` random values, in random order but for the first `EDGES`, which are the special ones."""
    given = draw(rng, function.kind, 200 if function.kind == "number" else _POOL)
    return [Example(value, result) for value, result in zip(given, function.apply(given), strict=True)]


def _show(bugs: Sequence[str], hidden: list[Example], others: Sequence[Example]) -> bool:
    """Adds to the hidden examples those of the others that show a bug; False if too many bugs show in none."""
    unseen = 0
    for bug in bugs:
        solve = compiled(bug)
        if all(agrees(solve, example) for example in hidden):
            telling = next((example for example in others if not agrees(solve, example)), None)
            if telling is not None:
                hidden.append(telling)
            elif (unseen := unseen + 1) > _UNSEEN * len(bugs):
                return False
    return True


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


def _varied(values: Sequence[Example], count: int, repeats: int) -> list[Example]:
    """The first examples of which no more than `repeats` have the same result; then the first others."""
    times = Counter[str]()
    chosen: list[Example] = []
    others: list[Example] = []
    for example in values:
        result = written(example.expected)
        times[result] += 1
        (chosen if times[result] <= repeats else others).append(example)
    return (chosen + others)[:count]
