"""The value of a LaTeX or arithmetic expression, by math-verify in the sandbox.

math-verify reads expressions with sympy, which runs parts of what it reads: the trainer never imports it. What comes
back is compared outside, so that the process which saw the answer never saw the expected one.
"""

import importlib.metadata
import importlib.util
import re
from fractions import Fraction
from functools import cache

from eco.sandbox import Call, Level, Limits, Sandbox
from eco.tasks.verdict import Verdict

_LONGEST = 200
"""Characters of an expression."""

_BITS = 4096
"""Of numerator and denominator, which are reduced and compared outside of the sandbox."""

_SECONDS = 10
"""For an import of sympy (0.5 to 2 s), and the expression."""

_COMMAND = r"\\(?:[dt]?frac|sqrt|cdot|times|div|left|right)(?![a-zA-Z])"
_EXPRESSION = re.compile(rf"(?:{_COMMAND}|[0-9.+\-*/^(){{}}! ])++")
_SIDE_BY_SIDE = re.compile(r"[0-9.] *(?:\{ *| +)[0-9.]|\} *[0-9.]|(?<!\\frac)(?<!\\[dt]frac)(\{[^{}]*\}) *\{")
"""Numbers, or groups other than those of a fraction: math-verify adds them, multiplies them, or takes one of them."""

_PACKAGES = ("math_verify", "sympy", "mpmath", "latex2sympy2_extended", "antlr4")
"""math-verify and what it needs."""

_RUNTIME = "antlr4-python3-runtime"
"""math-verify asks for the version of this one."""

_PROGRAM = """\
import importlib.metadata
importlib.metadata.version = {versions}.__getitem__  # lent packages come without their metadata
import sympy
from math_verify import parse

def value(text):
    found = parse("$" + text + "$", parsing_timeout=None)
    if not found or not isinstance(found[0], sympy.Expr):
        return None
    number = sympy.nsimplify(sympy.simplify(found[0].doit()), rational=True)
    return (int(number.p), int(number.q)) if number.is_Rational else None
"""


def is_expression(text: str) -> bool:
    """Whether a text looks like one expression without unknowns; numbers side by side are no product here."""
    text = text.strip("$ ")
    return len(text) <= _LONGEST and bool(_EXPRESSION.fullmatch(text)) and not _SIDE_BY_SIDE.search(text)


def evaluate(text: str, level: Level) -> Fraction | Verdict | None:
    """The rational number that an expression is; None if it is none, a huge one, or math-verify is not installed.

    A verdict, where the run ended by its limits or could not be done at all. Takes a second, as sympy is imported anew.
    """
    if not all(map(importlib.util.find_spec, _PACKAGES)):  # looks for them, does not run them
        return None
    versions = {_RUNTIME: importlib.metadata.version(_RUNTIME)}
    outcome = _evaluator(level).run(_PROGRAM.format(versions=versions), [Call("value", (text.strip("$ "),))])[0]
    match outcome.kind, outcome.value:
        case "pass", (int(above), int(below)) if below and max(above.bit_length(), below.bit_length()) <= _BITS:
            return Fraction(above, below)
        case "pass" | "fail", _:
            return None
        case _:
            return Verdict(outcome.kind, 0.0, outcome.detail)


@cache
def _evaluator(level: Level) -> Sandbox:
    """A sandbox of its own: programs of completions see no installed packages."""
    return Sandbox(level, Limits(packages=_PACKAGES, seconds=_SECONDS, cpu_seconds=_SECONDS))
