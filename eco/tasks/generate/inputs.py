"""Values to call generated functions with."""

from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

from eco.tasks.generate.primitives.strings import LETTERS

KINDS = ("number", "text", "numbers", "counts")
"""What a generated function can take; also the name of its parameter."""

EDGES = 3
"""How many special values each kind has: empty ones, zero, equal parts."""

_NUMBERS = range(-30, 121)
_KEYS = (
    "apple",
    "pear",
    "plum",
    "fig",
    "melon",
    "lime",
    "olive",
    "bread",
    "salt",
    "tea",
    "rice",
    "oats",
    "nut",
    "dill",
)


def draw(rng: Random, kind: str, count: int) -> list[Any]:
    """That many different values, or as many as there are; the first `EDGES` are the special ones."""
    if kind == "number":
        numbers = [number for number in _NUMBERS if number not in _SPECIAL[kind]]
        rng.shuffle(numbers)
        return [*_SPECIAL[kind], *numbers][:count]
    one = _DRAW[kind]
    found = {repr(value): value for value in (*_SPECIAL[kind], *(one(rng) for _ in range(count)))}
    return list(found.values())[:count]


@cache
def probes(kind: str) -> tuple[Any, ...]:
    """The values by which functions are told apart: the same ones at all times."""
    return tuple(draw(Random(f"probes {kind}"), kind, len(_NUMBERS) if kind == "number" else 48))


def _text(rng: Random) -> str:
    words = ["".join(rng.choices(LETTERS, k=rng.randint(1, 6))) for _ in range(rng.randint(1, 4))]
    return " ".join(word.capitalize() if rng.random() < 0.15 else word for word in words)


def _list(rng: Random) -> list[int]:
    return [rng.randint(-9, 20) for _ in range(rng.randint(1, 9))]


def _counts(rng: Random) -> dict[str, int]:
    return {key: rng.randint(-3, 20) for key in rng.sample(_KEYS, rng.randint(1, 5))}


_DRAW: dict[str, Callable[[Random], Any]] = {"text": _text, "numbers": _list, "counts": _counts}
_SPECIAL: dict[str, tuple[Any, ...]] = {
    "number": (0, 1, -1),
    "text": ("", "a", "Anna"),
    "numbers": ([], [0], [3, 3]),
    "counts": ({}, {"fig": 0}, {"fig": 3, "dill": 3}),
}
