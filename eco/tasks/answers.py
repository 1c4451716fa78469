"""Numbers in completions: a strict grammar, and comparison as exact rationals.

An answer stands behind `####` or `Answer:` up to the end of the line, or in `\\boxed{}`; of several, the last counts.
A completion without any of these is an answer if it is nothing but a number. What stands there must be one number as a
whole: "72 73" and "72 or so" are no answers, so that nobody can hedge.
"""

import re
from fractions import Fraction

from eco.sandbox import Sandbox
from eco.tasks import symbolic
from eco.tasks.verdict import Verdict

_MARKER = re.compile(r"####|\banswer:|\\boxed\{", re.IGNORECASE)

_LONGEST_NUMBER = 1000
"""Characters of a number; Python refuses to read more than 4300 digits."""

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)[$€£]?(?P<whole>{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:/(?P<below>[0-9]+))?%?", re.ASCII
)
_FRACTION = re.compile(r"([+-]?)\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}")
_AS_PLAIN = str.maketrans({"\u2212": "-", "\u00a0": " "})
_AROUND = " \t\r*_`"


def number(text: str) -> Fraction | None:
    """The number that a text is, or None if it is anything else.

    Read are whole numbers, decimals and fractions `a/b` or `\\frac{a}{b}`, with a sign, thousands separated by commas,
    and a currency before or a percent sign behind, which are units and change nothing: `50%` is 50, as in the answers
    of GSM8K. One full stop may follow.
    """
    text = text.translate(_AS_PLAIN).strip(_AROUND).removesuffix(".").strip(_AROUND)
    if len(text) > _LONGEST_NUMBER:
        return None
    if len(text) > 2 and text[0] == text[-1] == "$":
        text = text[1:-1]
    plain = text.replace("\\$", "$").replace("\\%", "%").replace("{,}", ",").replace("\\,", "")
    if stacked := _FRACTION.fullmatch(plain):
        plain = f"{stacked[1]}{stacked[2]}/{stacked[3]}"
    found = _NUMBER.fullmatch(plain)
    if found is None:
        return None
    below = int(found["below"] or 1)
    if below == 0:
        return None
    value = Fraction(found["whole"].replace(",", "")) / below
    return -value if found["sign"] == "-" else value


def final_answer(completion: str) -> str | None:
    """The text that a completion gives as its answer, or None if it marks none."""
    markers = [*_MARKER.finditer(completion)]
    if not markers:
        return completion.strip() if number(completion.strip()) is not None else None
    rest = completion[markers[-1].end() :]
    return _braced(rest) if markers[-1][0].endswith("{") else rest.partition("\n")[0].strip(_AROUND)


def judge_number(completion: str, expected: Fraction, sandbox: Sandbox) -> Verdict:
    """Whether the completion's answer is the expected number, exactly; see `answered`."""
    value = answered(completion, sandbox)
    if isinstance(value, Verdict):
        return value
    if value == expected:
        return Verdict("pass", 1.0)
    return Verdict("fail", 0.0, f"the answer is {_shown(final_answer(completion) or '')}, not {expected}")


def answered(completion: str, sandbox: Sandbox) -> Fraction | Verdict:
    """The number that a completion gives as its answer; the verdict on it where it gives none.

    An answer that is an expression (`\\sqrt{16}`, `3/4 + 1/4`) is evaluated in the sandbox, where math-verify is
    installed; the expected number stays here.
    """
    answer = final_answer(completion)
    if answer is None:
        return Verdict("fail", 0.0, "no answer: nothing behind ####, Answer: or in \\boxed{}")
    value: Fraction | Verdict | None = number(answer)
    if value is None and symbolic.is_expression(answer):
        value = symbolic.evaluate(answer, sandbox.level)
    if value is None:
        return Verdict("fail", 0.0, f"no answer: {_shown(answer)} is not one number")
    return value


def _braced(text: str) -> str | None:
    """The text up to the brace that closes the one before it; None where it is missing."""
    depth = 1
    for brace in re.finditer(r"[{}]", text):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[: brace.start()].strip(_AROUND)
    return None


def _shown(answer: str) -> str:
    return ascii(answer if len(answer) <= 60 else answer[:60] + "...")
