"""Prediction: what is expected is what Python prints, programs stay small, and names do not make another program."""

import ast
import contextlib
import io
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco.tasks.generate import interpreter
from eco.tasks.generate.script import LEVELS, normal, renamed, script
from eco.tasks.sets import prediction


def _printed(source):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(source, {})
    return out.getvalue()


@pytest.mark.parametrize("level", range(1, LEVELS + 1))
def test_the_answer_is_what_python_prints(level):
    for split in ("train", "held_out"):
        for task in prediction.tasks(split, 60, level=level, seed=1):
            assert task.prompt.endswith("\n# Output:")
            assert _printed(task.prompt) == f"{task.answer}\n"
            assert _printed(task.prompt + task.solution()) == f"{task.answer}\n"
            assert 0 < len(task.answer) <= 40
            assert task.check(task.solution(), None).outcome == "pass"
            assert task.check(f" {task.answer}x\n", None).outcome == "fail"


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, LEVELS))
def test_the_interpreter_does_what_python_does(rng, level):
    source = script(rng, level)
    try:
        expected = _printed(source)
    except (IndexError, ValueError):
        with pytest.raises((IndexError, ValueError, interpreter.Unbounded)):
            interpreter.run(source)
        return
    with contextlib.suppress(interpreter.Unbounded):
        assert interpreter.run(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "v0 = 9\nfor v1 in range(9):\n    v0 = v0 * v0\nprint(v0)\n",
        "v0 = 'ab'\nfor v1 in range(9):\n    v0 = v0 + v0\nprint(v0)\n",
        "v0 = 2\nfor v1 in range(199):\n    for v2 in range(199):\n        v0 += 1\nprint(v0)\n",
        "for v0 in range(10000000000):\n    print(1)\n",
    ],
)
def test_programs_without_bounds_are_ended(source):
    with pytest.raises(interpreter.Unbounded):
        interpreter.run(source)


@given(st.randoms(use_true_random=False), st.integers(1, LEVELS))
def test_names_and_the_order_of_summands_make_no_other_program(rng, level):
    source = script(rng, level)
    plain = [f"v{i}" for i in range(40)]
    assert renamed(source, plain, ["f0", "f1"]) == source
    other = renamed(source, plain[20:], ["f5", "f6"])
    assert other != source or level == 1
    assert renamed(other, plain, ["f0", "f1"]) == source
    mirrored = ast.parse(source)
    for node in ast.walk(mirrored):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
            node.left, node.right = node.right, node.left
    assert normal(mirrored) == normal(ast.parse(source))


def test_another_operator_or_order_is_another_program():
    texts = (
        "print(3 - 4)",
        "print(4 - 3)",
        "print(3 + 4)",
        "print(3 * 4)",
        "v0 = 3\nprint(v0 + 4)",
        "v0 = 4\nprint(v0 + 3)",
    )
    assert len({normal(ast.parse(text)) for text in texts}) == len(texts)
    assert normal(ast.parse("print(3 + 4)")) == normal(ast.parse("print(4 + 3)"))


def test_sums_and_products_are_the_same_however_they_are_ordered_and_grouped():
    sums = ("7 - 5 + 3", "3 + (7 - 5)", "3 + 7 - 5", "7 - (5 - 3)")
    assert len({normal(ast.parse(text)) for text in sums}) == 1
    assert normal(ast.parse("a * 2 * (b + c)")) == normal(ast.parse("(c + b) * a * 2"))
    different = ("7 - (5 + 3)", "7 - 5 + 3", "v0[1:]", "v0[:1]", "(a + b) * c", "a * b + c", "a // b * c")
    assert len({normal(ast.parse(text)) for text in different}) == len(different)


def test_programs_are_in_the_same_split_in_every_version_of_python(monkeypatch):
    tree = ast.parse("def f0(v0):\n    return v0\n")
    fields = tuple(name for name in ast.FunctionDef._fields if name != "type_params")
    monkeypatch.setattr(ast.FunctionDef, "_fields", fields)
    before = normal(tree)
    tree.body[0].type_params = []  # every function has them from Python 3.12 on
    monkeypatch.setattr(ast.FunctionDef, "_fields", (*fields, "type_params"))
    assert normal(tree) == before


@pytest.mark.parametrize("level", range(1, LEVELS + 1))
def test_no_single_answer_is_right_often(level):
    answers = Counter(task.answer for task in prediction.tasks("train", 300, level=level, seed=4))
    assert answers.most_common(1)[0][1] < 0.15 * 300


def test_every_level_brings_its_construct():
    signs = {3: ("=", "+= ", "-= "), 4: ("if ",), 5: ("for ",), 6: ("[", "'"), 7: ("def ",)}
    for level, forms in signs.items():
        for task in prediction.tasks("train", 30, level=level):
            assert any(form in task.prompt for form in forms), task.prompt
