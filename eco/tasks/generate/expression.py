"""Expressions of integers in Python's notation: grown, written, evaluated, compared."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from random import Random

_OPERATORS = {
    "+": (1, operator.add),
    "-": (1, operator.sub),
    "*": (2, operator.mul),
    "//": (2, operator.floordiv),
    "%": (2, operator.mod),
}
"""How strongly each binds, and what it computes."""

_LARGEST = 10**6
"""No value on the way is larger, so that a deep expression stays a matter of steps and not of long numbers."""


@dataclass(frozen=True)
class Operation:
    """Two expressions under an operator. value: what it comes to."""

    symbol: str
    left: int | Operation
    right: int | Operation
    value: int


def operate(symbol: str, left: int | Operation, right: int | Operation) -> Operation:
    """
    Raises:
        ZeroDivisionError: `//` or `%` by zero.
    """
    return Operation(symbol, left, right, _OPERATORS[symbol][1](value(left), value(right)))


def grow(rng: Random, operators: int, largest: int) -> int | Operation:
    """A random tree with so many operators over literals from 1 to `largest`; divisors are literals from 2 to 12, and
    never larger than what they divide: that would give a 0, or nothing new."""
    if operators == 0:
        return rng.randint(1, largest)
    symbol = rng.choice(tuple(_OPERATORS))
    if symbol in ("//", "%"):
        left, divisor = grow(rng, operators - 1, largest), rng.randint(2, 12)
        return operate(symbol if abs(value(left)) >= divisor else "+", left, divisor)
    before = rng.randrange(operators)
    left, right = grow(rng, before, largest), grow(rng, operators - 1 - before, largest)
    grown = operate(symbol, left, right)
    return grown if abs(grown.value) <= _LARGEST else operate("-", left, right)


def value(expression: int | Operation) -> int:
    """What an expression comes to."""
    return expression if isinstance(expression, int) else expression.value


def written(expression: int | Operation) -> str:
    """As a person writes it, without needless parentheses: `(3 + 5) * 2`."""
    if isinstance(expression, int):
        return str(expression)
    binding = _OPERATORS[expression.symbol][0]
    left = _enclosed(expression.left, binding)
    return f"{left} {expression.symbol} {_enclosed(expression.right, binding + 1)}"


def _enclosed(part: int | Operation, binding: int) -> str:
    """A part, in parentheses if it binds less than its place asks for."""
    loose = isinstance(part, Operation) and _OPERATORS[part.symbol][0] < binding
    return f"({written(part)})" if loose else written(part)


def meaning(expression: int | Operation) -> str:
    """Equal for expressions that differ only in the order of summands or factors, however they are grouped: of
    `7 - 5 + 3`, `3 + (7 - 5)` and `7 - (5 - 3)`, all are sums of 3, 7 and less 5."""
    if isinstance(expression, int):
        return str(expression)
    if expression.symbol in "+-":
        added, subtracted = (sorted(map(meaning, parts)) for parts in _summands(expression))
        return f"({'-'.join(['+'.join(added), *subtracted])})"
    if expression.symbol == "*":
        return f"({'*'.join(sorted(map(meaning, _factors(expression))))})"
    return f"({meaning(expression.left)}{expression.symbol}{meaning(expression.right)})"


def _summands(part: int | Operation) -> tuple[list[int | Operation], list[int | Operation]]:
    """What is added, and what is subtracted."""
    if isinstance(part, int) or part.symbol not in "+-":
        return [part], []
    added, subtracted = _summands(part.left)
    more, less = _summands(part.right) if part.symbol == "+" else _summands(part.right)[::-1]
    return added + more, subtracted + less


def _factors(part: int | Operation) -> list[int | Operation]:
    if isinstance(part, int) or part.symbol != "*":
        return [part]
    return _factors(part.left) + _factors(part.right)
