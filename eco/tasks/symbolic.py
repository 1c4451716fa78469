"""The value of a LaTeX or arithmetic expression, by math-verify in the sandbox.

math-verify reads expressions with sympy, which runs parts of what it reads: the trainer never imports it. What comes
back is compared outside, so that the process which saw the answer never saw the expected one.
"""

import importlib.util
import re
from fractions import Fraction
from pathlib import Path

from eco.sandbox import Call, Sandbox
from eco.tasks.verdict import Verdict

_LONGEST = 200
"""Characters of an expression."""

_EXPRESSION = re.compile(r"(?:\\[a-zA-Z]++|[0-9.+\-*/^(){}!| ])++")
_TWO_NUMBERS = re.compile(r"[0-9.] +[0-9.]")

_PROGRAM = """\
import sys
sys.path.append({folder!r})
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
    return len(text) <= _LONGEST and bool(_EXPRESSION.fullmatch(text)) and not _TWO_NUMBERS.search(text)


def evaluate(text: str, sandbox: Sandbox) -> Fraction | Verdict | None:
    """The rational number that an expression is; None if it is none or math-verify is not installed.

    A verdict, where the run ended by its limits or could not be done at all.
    """
    package = importlib.util.find_spec("math_verify")  # looks for the package, does not run it
    if package is None or package.origin is None:
        return None
    program = _PROGRAM.format(folder=str(Path(package.origin).parent.parent))
    outcome = sandbox.run(program, [Call("value", (text.strip("$ "),))])[0]
    match outcome.kind, outcome.value:
        case "pass", (int(above), int(below)) if below:
            return Fraction(above, below)
        case "pass" | "fail", _:
            return None
        case _:
            return Verdict(outcome.kind, 0.0, outcome.detail)
