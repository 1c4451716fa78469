"""Numbers and programs in completions."""

import importlib.util
import sys
import time
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco.sandbox import Sandbox
from eco.tasks import answers, programs, symbolic


class NoSandbox:
    """For answers that must be judged without running anything in the sandbox of programs."""

    level = "full"

    def run(self, program, calls):
        raise AssertionError("nothing is to be run")


def outcome(completion, expected):
    return answers.judge_number(completion, Fraction(expected), NoSandbox()).outcome


# Numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", 72),
        (" 72. ", 72),
        ("-5", -5),
        ("\u22125", -5),
        ("+5", 5),
        ("007", 7),
        ("1,080", 1080),
        ("109,200,000", 109_200_000),
        ("$18", 18),
        ("-$18.50", Fraction(-37, 2)),
        ("$18$", 18),
        ("\\$1{,}000", 1000),
        ("50%", 50),
        ("50\\%", 50),
        (".5", Fraction(1, 2)),
        ("2.", 2),
        ("0.1", Fraction(1, 10)),
        ("6/8", Fraction(3, 4)),
        ("\\frac{3}{4}", Fraction(3, 4)),
        ("-\\dfrac{3}{4}", Fraction(-3, 4)),
        ("**72**", 72),
        ("9" * 900, int("9" * 900)),
    ],
)
def test_numbers_are_read_exactly(text, value):
    assert answers.number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            ".",
            "-",
            "72 73",
            "72, 73",
            "72 or 73",
            "72abc",
            "x72",
            "1,00",
            "1,0000",
            ",100",
            "1,000,0",
            "1.2.3",
        ),
        *(
            "1e3",
            "1e999999999",
            "1/0",
            "1/2/3",
            "--5",
            "0x10",
            "1_000",
            "nan",
            "inf",
            "\u0665",
            "\uff17",
            "\ud800",
            "7\x00",
        ),
        *(
            "\\frac{1}{0}",
            "\\frac{1}{2}3",
            "3\\frac{1}{2}",
            "9" * 2000,
            "9" * 5000,
            "True",
            "72\n73",
            "$",
            "%",
            "5%%",
            "$$5",
        ),
    ],
)
def test_what_is_not_one_number_is_none(text):
    assert answers.number(text) is None


@given(st.integers(), st.integers(min_value=1, max_value=10**30))
def test_every_fraction_reads_back(above, below):
    assert answers.number(f"{above}/{below}") == Fraction(above, below)
    assert answers.number(f"{above:,}") == above


@given(st.integers(), st.integers(min_value=0, max_value=20))
def test_every_decimal_reads_back(digits, places):
    sign, plain = "-" * (digits < 0), str(abs(digits)).zfill(places + 1)
    text = f"{sign}{plain[: len(plain) - places]}.{plain[len(plain) - places :]}"
    assert answers.number(text) == Fraction(digits, 10**places)


@given(st.text(max_size=40))
def test_any_text_is_a_number_or_none(text):
    assert isinstance(answers.number(text), Fraction | None)


# The answer of a completion


@pytest.mark.parametrize(
    "completion",
    [
        *(" 72", "72\n", "#### 72", "so\n####72\n", "Answer: 72", "ANSWER: 72.", "**Answer:** 72", "**Answer: 72**"),
        *(
            "so \\boxed{72} it is",
            "\\boxed{\\frac{144}{2}}",
            "Answer: \\boxed{72}",
            "#### 71\nNo.\n#### 72",
            "#### 72.0",
        ),
        *("Answer: 71\n#### 72", "#### $72\nthanks", "The answer: 144/2"),
    ],
)
def test_the_last_marked_answer_counts(completion):
    assert outcome(completion, 72) == "pass"
    assert outcome(completion, 71) == "fail"


@pytest.mark.parametrize(
    "completion",
    [
        *("I think 72", "72 apples", "#### 72 73", "#### 72\n#### 73", "#### 72\n####", "#### 72 or 73", "Answer: 7 2"),
        *(
            "Answer:\n72",
            "\\boxed{72",
            "\\boxed{72} \\boxed{",
            "#### 172",
            "#### 720",
            "####",
            "Question: 72",
            "72\n73",
        ),
        *("\\boxed{}", "#### seventy-two", "#### 72\x00", "#### 72\ud800"),
    ],
)
def test_hedged_and_unmarked_answers_fail(completion):
    assert outcome(completion, 72) == "fail"


def test_decimals_are_not_rounded():
    assert outcome("#### 0.3333333333333333", Fraction(1, 3)) == "fail"
    assert outcome("#### 1/3", Fraction(1, 3)) == "pass"
    assert outcome("#### 9007199254740993", 9007199254740992) == "fail"


@given(st.text(max_size=60))
def test_any_completion_gets_a_verdict(text):
    assert outcome(text, Fraction(1, 7)) == "fail"


# Expressions go to the sandbox


class Answering:
    """A sandbox that gives one outcome and keeps what it was asked."""

    level = "full"

    def __init__(self):
        self.kind, self.value, self.asked = "fail", None, []

    def run(self, program, calls):
        self.asked.append((program, calls))
        return [SimpleNamespace(kind=self.kind, value=self.value, detail="told")]


@pytest.fixture
def evaluator(monkeypatch):
    """What stands for the sandbox in which math-verify seems to be installed."""
    answering = Answering()
    monkeypatch.setattr(symbolic.importlib.util, "find_spec", lambda name: SimpleNamespace())
    monkeypatch.setattr(symbolic.importlib.metadata, "version", lambda name: "4.13.2")
    monkeypatch.setattr(symbolic, "_evaluator", lambda level: answering)
    return answering


def test_expressions_are_evaluated_in_the_sandbox_without_the_expected_number(evaluator):
    evaluator.kind, evaluator.value = "pass", (73, 1)
    assert outcome("#### $\\sqrt{5329}$", 73) == "pass"
    assert outcome("#### $\\sqrt{5329}$", 72) == "fail"
    program, calls = evaluator.asked[0]
    assert [call.args for call in calls] == [("\\sqrt{5329}",)]
    assert "math_verify" in program and "73" not in program


@pytest.mark.parametrize("value", [None, (1, 0), (1, 2, 3), "4", (1.5, 2), {"a": 1}])
def test_what_the_sandbox_may_return_is_not_trusted(evaluator, value):
    evaluator.kind, evaluator.value = "pass", value
    assert outcome("#### 1+1", 2) == "fail"


@pytest.mark.parametrize(("above", "below"), [(3 << 4095, 1 << 4095), (3, 1 << 4096), (-3 << 4096, 1)])
def test_huge_numbers_are_not_reduced_outside_of_the_sandbox(evaluator, above, below):
    evaluator.kind, evaluator.value = "pass", (above, below)
    assert symbolic.evaluate("1+1", "full") is None


def test_numbers_that_are_not_huge_are_reduced(evaluator):
    evaluator.kind, evaluator.value = "pass", (3 << 4094, 1 << 4095)
    assert symbolic.evaluate("1+1", "full") == Fraction(3, 2)


@pytest.mark.parametrize("kind", ["timeout", "memory", "crash", "tamper", "infrastructure"])
def test_a_run_that_broke_down_is_told(evaluator, kind):
    evaluator.kind = kind
    assert answers.judge_number("#### 9^9^9", Fraction(2), NoSandbox()) == answers.Verdict(kind, 0.0, "told")


@pytest.mark.parametrize("text", ["72 73", "__import__('os')", "x+1", "lambda: 1", "1" * 201, "'a'*9", "", "\n"])
def test_only_expressions_of_numbers_are_evaluated(text):
    assert not symbolic.is_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "72|73",
        "|72",
        "72\\cup73",
        "72\\lor73",
        "72\\to73",
        "72\\approx73",
        "72\\quad73",
        "72\\ldots73",
        "72\\text{}73",
        "71{}72",
        "{72}{73}",
        "72{73}",
        "{72}73",
        "72\\fracas73",
    ],
)
def test_an_expression_that_offers_two_numbers_is_no_answer(text):
    assert not symbolic.is_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        r"\sqrt{16}",
        r"\frac{1}{2}+\dfrac{1}{4}",
        r"2^{10}",
        r"3\cdot0.1",
        r"1\frac{1}{2}",
        r"\frac{\sqrt{4}}{2}",
        r"\left(1+2\right)\times3",
        r"4!/2",
    ],
)
def test_one_expression_is_evaluated(text):
    assert symbolic.is_expression(text)


@pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("\\sqrt{16}", 4),
            ("\\frac{1}{2} + \\frac{1}{4}", Fraction(3, 4)),
            ("2^{10}", 1024),
            ("3 \\cdot 0.1", Fraction(3, 10)),
        ),
        *(("\\pi", None), ("\\sqrt{2}", None), ("\\frac{1}{0}", None), ("(((", None), ("\\infty", None)),
    ],
)
def test_math_verify_evaluates_expressions_in_the_sandbox(text, value):
    with Sandbox() as sandbox:
        assert symbolic.evaluate(text, sandbox.level) == value
    assert "math_verify" not in sys.modules and "sympy" not in vars(symbolic)


def test_without_math_verify_an_expression_is_no_answer(monkeypatch):
    monkeypatch.setattr(symbolic.importlib.util, "find_spec", lambda name: None)
    assert outcome("#### 36+36", 72) == "fail"


# Programs


def test_a_continuation_ends_at_the_first_statement_at_the_margin():
    body = '    x = """\nnot code\n"""\n    y = [\n1,\n]\n# still in it\n    return f(\n2)\n'
    assert programs.continuation(body + "print(1)\n    more") == body
    assert programs.continuation(body + "```\nwords") == body
    assert programs.continuation(body + '"""text"""') == body
    assert programs.continuation(body) == body


def test_a_backslash_carries_a_line_on():
    assert programs.continuation("    return 1 + \\\n2\nprint(1)") == "    return 1 + \\\n2\n"


def test_quotes_in_comments_and_brackets_in_strings_are_no_structure():
    body = "    # it's (\n    s = '(\\'' + \"[\\\"\"\n"
    assert programs.continuation(body + "x = 1") == body


def test_definitions_leave_out_words_before_and_trials_after():
    code = "import math\nN = 3\n@cache\ndef f(x):\n    return [\nx]\n\nclass A:\n    pass\n# note\ndef g():\n    pass\n"
    assert programs.definitions(f"Here it is:\n{code}print(f(1))\nN = 4\n") == code
    assert programs.definitions("from the top, import nothing") == ""


def test_fences():
    assert programs.fenced("a\n```python\nx = 1\n```\nb\n  ```\ny\n") == ["x = 1\n", "y\n"]
    assert programs.fenced("`a` ``` b") == []


@pytest.mark.parametrize(
    ("text", "defines"),
    [
        *[
            (text, True)
            for text in ("def f(): 0", "x = 1", "x: int = 1", "import a", "class A:\n  pass", "@f\ndef g(): 0")
        ],
        *[(text, False) for text in ("pass", "print(1)", "# def f(): 0", '"""\ndef f(): 0\n"""', "x == 1", "  x = 1")],
    ],
)
def test_whether_a_text_defines_anything(text, defines):
    assert programs.defines_anything(text) == defines


@pytest.mark.parametrize(
    "piece", ["(", '"', '"""', "'''\\", "```\n", " ", "\n", "#", "def f", "x:", "####", "\\boxed{", "1,"]
)
def test_the_time_is_linear_in_the_text(piece):
    def seconds(characters):
        text = "\n" + piece * (characters // len(piece))
        started = time.perf_counter()
        programs.fenced(text), programs.continuation(text), programs.definitions(text), programs.defines_anything(text)
        programs.is_only_comments(text), programs.where_defined(text, "f"), programs.is_indented(text)
        answers.final_answer(text)
        return time.perf_counter() - started

    assert min(seconds(1 << 18) for _ in range(2)) < 1.0
