"""Shapes and signatures: renamed programs are equal, others are not, and no text harms whoever looks at it."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import renamed

from eco.improvement.store.minhash import PERMUTATIONS, shingles, signature, similarity
from eco.improvement.store.normaliser import normalise
from eco.improvement.store.shapes import shapes
from eco.sandbox import Sandbox
from eco.tasks.sets import synthesis


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1) as opened:
        yield opened


EQUAL = [
    (
        "def solve(text):\n    r = text + 'a'\n    return r\n",
        "def f(b):\n    '''Said.'''\n    zz = b + 'a'  # here\n    return zz\n",
    ),
    ("def f(xs):\n    return [x for x in xs]", "def f(a: list[int]) -> list[int]:\n\n    return [ b for b in a ]"),
    ("import math\ndef f(n): return math.sqrt(n)", "import math\ndef g(x): return (math.sqrt(x))"),
    ("def f(a):\n    try: pass\n    except E as e: raise e", "def f(b):\n    try: pass\n    except E as x: raise x"),
    ("def f(a):\n    global n\n    n = a", "def f(x):\n    global y\n    y = x"),
    ("match p:\n    case [a, *b]: c = a", "match p:\n    case [x, *y]: z = x"),
]
DIFFERENT = [
    ("def f(x): return x + 1", "def f(x): return x + 2"),
    ("def f(x): return x == 1", "def f(x): return x == True"),
    ("def f(x): return 1", "def f(x): return 1.0"),
    ("def f(x): return max(x)", "def f(x): return min(x)"),
    ("def f(x): return x.lower()", "def f(x): return x.upper()"),
    ("def f(a, b): return a - b", "def f(a, b): return b - a"),
    ("def f(a, b): return a - a", "def f(a, b): return a - b"),
    ("import math as m", "import cmath as m"),
    ("class A:\n    def keys(self): pass", "class A:\n    def items(self): pass"),
    ("def f(x): return x", "async def f(x): return x"),
    ("def f(x): return 'x'", "def f(x): return x"),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_names_comments_and_layout_do_not_count(one, other):
    assert normalise(one) is not None
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_everything_else_counts(one, other):
    assert normalise(one)[0] != normalise(other)[0]


def test_every_generated_solution_survives_a_renaming_and_stands_apart():
    found = {}
    for task in [*synthesis.tasks("train", 60, level=2), *synthesis.tasks("train", 60, level=4)]:
        document = task.prompt + task.solution()
        assert renamed(document) != document
        assert normalise(renamed(document)) == normalise(document)
        found.setdefault(normalise(document)[0], set()).add(task.name)
    assert len(found) >= 118, "different functions have different shapes, but for those that differ in types alone"


def test_each_function_has_a_shape_of_its_own():
    helper = "def double(x):\n    return 2 * x\n"
    whole, inner, outer = normalise(f"{helper}def solve(y):\n    return double(y) + 1\n")
    assert inner == normalise(helper)[1]
    assert len({whole, inner, outer}) == 3


HOSTILE = {
    "parentheses": "(" * 20_000 + ")" * 20_000,
    "lists": "x = " + "[" * 9_000 + "]" * 9_000,
    "signs": "x = " + "-" * 30_000 + "1",
    "attributes": "x" + ".y" * 15_000,
    "sums": "x = " + "+".join(["1"] * 15_000),
    "null": "def f():\n    return '\0'\n",
    "surrogate": "x = '\ud800'",
    "number": f"x = {'9' * 5000}",
    "nothing": "",
    "indentation": "".join(" " * depth + "if 1:\n" for depth in range(150)),
    "too long": "x = 1\n" * 10_000,
    "words": "I would say that",
}


def test_hostile_texts_have_a_shape_or_none_and_spoil_no_other(sandbox):
    honest = [f"def f(x):\n    return x + {number}\n" for number in range(40)]
    mixed = [*honest[:20], *HOSTILE.values(), *honest[20:]]
    found = shapes(mixed, sandbox)
    assert found[:20] + found[-20:] == [tuple(normalise(code)) for code in honest]
    assert found == shapes(mixed, sandbox)
    by_name = dict(zip(HOSTILE, found[20:], strict=False))
    assert all(by_name[name] == () for name in ("parentheses", "null", "surrogate", "too long", "words", "number"))


def test_a_program_that_ends_its_interpreter_takes_none_along(monkeypatch):
    """Parsers have had such programs; here the normaliser itself dies on one."""
    from eco.improvement.store import shapes as module

    deadly = """
import os
honest = ast.parse
ast.parse = lambda code: os._exit(1) if "deadly" in code else honest(code)
"""
    monkeypatch.setattr(module, "_SOURCE", module._SOURCE + deadly)
    with Sandbox(workers=1) as sandbox:
        assert [bool(found) for found in shapes(["a = 1", "deadly = 2", "b = 3", "c = 'deadly'"], sandbox)] == [
            True, False, True, False,
        ]  # fmt: skip


def test_a_failed_sandbox_is_no_shape(sandbox, monkeypatch):
    class Broken:
        def run_many(self, jobs):
            found = sandbox.run_many(jobs)
            return [[type(one)("infrastructure", None, "gone", "", 0.0, "full") for one in run] for run in found]

    with pytest.raises(ValueError, match="the sandbox could not read a program: gone"):
        shapes(["x = 1"], Broken())


words = st.lists(st.sampled_from("abcdefghij+"), min_size=1, max_size=60).map(" ".join)


@settings(max_examples=200, derandomize=True)
@given(words, words)
def test_minhash_estimates_the_jaccard_index(one, other):
    exact = len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other))
    deviation = (exact * (1 - exact) / PERMUTATIONS) ** 0.5
    estimate = similarity(signature(one), signature(other))
    assert abs(estimate - exact) <= 5 * deviation
    assert similarity(signature(one), signature(one)) == 1


def test_minhash_is_unbiased_and_as_precise_as_it_says():
    dice = random.Random(1)
    errors = []
    for _ in range(400):
        shared = [f"w{dice.randrange(10**6)}" for _ in range(40)]
        one, other = (" ".join(shared + [f"v{dice.randrange(10**6)}" for _ in range(8)]) for _ in range(2))
        exact = len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other))
        errors.append(
            (similarity(signature(one), signature(other)) - exact) / (exact * (1 - exact) / PERMUTATIONS) ** 0.5
        )
    mean = sum(errors) / len(errors)
    assert abs(mean) < 4 / len(errors) ** 0.5
    assert 0.85 < (sum(error**2 for error in errors) / len(errors)) ** 0.5 < 1.15
