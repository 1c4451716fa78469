"""A step of a program: what it takes and gives, in words and in Python."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from string import Template
from typing import Any, Literal

Kind = Literal["number", "text", "numbers", "words", "counts", "truth"]
"""int, str, list[int], list[str], dict[str, int], bool."""


@dataclass(frozen=True)
class Primitive:
    """A family of steps that differ in their constants.

    words: an imperative, `add $a`. code: an expression of the value `$x`, which stands only where a name may stand and
    any operator around it binds less; it has a value for every value of its kind. choices: what `$a` and `$b` may be.
    """

    takes: Kind
    gives: Kind
    words: str
    code: str
    choices: tuple[Sequence[int | str], ...]

    @property
    def size(self) -> int:
        """How many steps it stands for."""
        count = 1
        for choice in self.choices:
            count *= len(choice)
        return count

    def draw(self, rng: Random) -> "Step":
        return Step(self, tuple([rng.choice(choice) for choice in self.choices]))


def steps(takes: Kind, gives: Kind, *rows: tuple[str, str, *tuple[Sequence[int | str], ...]]) -> tuple[Primitive, ...]:
    """A table of primitives, a row for each: words, code, choices."""
    return tuple(Primitive(takes, gives, words, code, tuple(choices)) for words, code, *choices in rows)


@dataclass(frozen=True)
class Step:
    """A primitive with its constants."""

    primitive: Primitive
    constants: tuple[int | str, ...]

    @property
    def words(self) -> str:
        return Template(self.primitive.words).substitute(self._named(repr))

    def code(self, name: str) -> str:
        """The expression, of the value that a variable holds."""
        return Template(self.primitive.code).substitute(self._named(repr), x=name)

    def apply(self, values: Sequence[Any]) -> list[Any]:
        """What the step makes of each value."""
        function = _compiled(self.code("x"))
        return [function(value) for value in values]

    def _named(self, write: Callable[[int | str], str]) -> dict[str, str]:
        return {name: write(constant) for name, constant in zip("ab", self.constants, strict=False)}


@lru_cache(1 << 14)
def _compiled(code: str) -> Callable[[Any], Any]:
    """The function of x that our own templates spell."""
    function: Callable[[Any], Any] = eval(f"lambda x: {code}", {})
    return function
