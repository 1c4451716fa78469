"""Functions composed of steps: what they do, in English, in Python, and on values."""

from __future__ import annotations

import textwrap
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

from eco.tasks.generate.inputs import probes
from eco.tasks.generate.primitive import Step

Trace = list[tuple[Sequence[Any], list[Any]]]


@dataclass(frozen=True)
class Function(ABC):
    """`solve` of one parameter. kind: of the parameter, which has its name."""

    kind: str

    @property
    @abstractmethod
    def description(self) -> str:
        """One or two sentences that say all there is to know."""

    @property
    @abstractmethod
    def lines(self) -> list[str]:
        """The body, not indented."""

    @abstractmethod
    def apply(self, values: Sequence[Any], trace: Trace | None = None) -> list[Any]:
        """What the function returns for each value, computed without the text of the body. trace: gets, of every step,
        the values that it started from and what it made of them."""

    @property
    def signature(self) -> str:
        return f"def solve({self.kind}):\n"

    @property
    def body(self) -> str:
        return textwrap.indent("\n".join(self.lines), "    ") + "\n"

    def meaning(self) -> str:
        """Equal for functions that do the same to all probes."""
        results = self.apply(probes(self.kind))
        told = repr([sorted(result.items()) for result in results] if isinstance(results[0], dict) else results)
        return f"{self.kind} {xxhash.xxh3_128_hexdigest(told.encode())}"

    def is_telling(self) -> bool:
        """Whether the function, and every step of it, changes most probes, and into different values."""
        given, trace = probes(self.kind), Trace()
        return differs(given, self.apply(given, trace), 0.7) and all(differs(*pair, 0.85) for pair in trace)


@dataclass(frozen=True)
class Chain(Function):
    """One step after the other."""

    steps: tuple[Step, ...]

    @property
    def words(self) -> str:
        return ", then ".join(step.words for step in self.steps)

    @property
    def description(self) -> str:
        return f"Take the {self.kind}: {self.words}. Return the result."

    @property
    def lines(self) -> list[str]:
        *before, last = self.assigned("result")
        return [*before, last.replace("result =", "return", 1)]

    def assigned(self, name: str) -> list[str]:
        """The chain with a variable of this name for its results, the last one too."""
        sources = [self.kind] + [name] * (len(self.steps) - 1)
        return [f"{name} = {step.code(source)}" for step, source in zip(self.steps, sources, strict=True)]

    def apply(self, values: Sequence[Any], trace: Trace | None = None) -> list[Any]:
        for step in self.steps:
            values = _traced(step, values, trace)
        return list(values)


@dataclass(frozen=True)
class Branch(Function):
    """One chain where a condition holds, another where it does not. condition: a step that gives a truth."""

    condition: Step
    yes: Chain
    no: Chain

    @property
    def description(self) -> str:
        condition = self.condition.words.replace("check whether it ", f"the {self.kind} ").replace("check whether ", "")
        return f"If {condition}: {self.yes.words}. Otherwise: {self.no.words}. Return the result."

    @property
    def lines(self) -> list[str]:
        indented = [f"    {line}" for line in self.yes.lines]
        return [f"if {self.condition.code(self.kind)}:", *indented, *self.no.lines]

    def apply(self, values: Sequence[Any], trace: Trace | None = None) -> list[Any]:
        truths = _traced(self.condition, values, trace)
        yes = self.yes.apply([value for value, truth in zip(values, truths, strict=True) if truth], trace)
        no = self.no.apply([value for value, truth in zip(values, truths, strict=True) if not truth], trace)
        results = {True: iter(yes), False: iter(no)}
        return [next(results[truth]) for truth in truths]


@dataclass(frozen=True)
class Combination(Function):
    """Two chains from the same value, whose results are added, or subtracted where they are numbers."""

    symbol: str
    left: Chain
    right: Chain

    @property
    def description(self) -> str:
        joined = "a minus b" if self.symbol == "-" else "a plus b" if self._numeric else "a followed by b"
        a, b = (f"take the {self.kind}: {chain.words}" for chain in (self.left, self.right))
        return f"For a, {a}. For b, {b}. Return {joined}."

    @property
    def _numeric(self) -> bool:
        return self.left.steps[-1].primitive.gives == "number"

    @property
    def lines(self) -> list[str]:
        return [*self.left.assigned("a"), *self.right.assigned("b"), f"return a {self.symbol} b"]

    def apply(self, values: Sequence[Any], trace: Trace | None = None) -> list[Any]:
        pairs = zip(self.left.apply(values, trace), self.right.apply(values, trace), strict=True)
        return [a - b if self.symbol == "-" else a + b for a, b in pairs]


def _traced(step: Step, values: Sequence[Any], trace: Trace | None) -> list[Any]:
    results = step.apply(values)
    if trace is not None:
        trace.append((values, results))
    return results


def differs(given: Sequence[Any], results: Sequence[Any], share: float) -> bool:
    """Whether no more than that share of the results are equal, or equal to what was given."""
    told = [written(result) for result in results]
    copies = sum(written(value) == result for value, result in zip(given, told, strict=True))
    commonest = Counter(told).most_common(1)
    return bool(commonest) and max(commonest[0][1], copies) <= share * len(told)


def written(value: Any) -> str:
    """A value as text, the same for equal values of equal types: entries of a dictionary have no order."""
    return f"{{{sorted(value.items())}}}" if isinstance(value, dict) else repr(value)
