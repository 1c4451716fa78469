"""Arithmetic and expressions: complete, right by Python's own rules, and strict about what counts as an answer."""

import ast
import re
from collections import Counter
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco.tasks.generate.deal import held_out
from eco.tasks.generate.expression import grow, meaning, operate, value, written
from eco.tasks.sets import arithmetic, expressions


def _text(task):
    return re.fullmatch(r"Compute (.*)\nAnswer:", task.prompt).group(1)


def test_every_sum_of_one_digit_is_in_one_split_with_its_mirror_image():
    both = {split: {_text(task) for task in _all(split)} for split in ("train", "held_out")}
    texts = [
        f"{a} {op} {b}" for a in range(10) for b in range(10) for op in ("+", "-", "*", "//", "%") if b or op in "+-*"
    ]
    assert len(texts) == 480
    assert both["train"] | both["held_out"] == set(texts)
    assert not both["train"] & both["held_out"]
    assert 20 < len(both["held_out"]) < 80
    for a in range(10):
        for b in range(10):
            assert (f"{a} + {b}" in both["train"]) == (f"{b} + {a}" in both["train"])
    assert any((f"{a} - {b}" in both["train"]) != (f"{b} - {a}" in both["train"]) for a in range(10) for b in range(10))


def _all(split):
    with pytest.raises(ValueError, match="ask for fewer") as refused:
        arithmetic.tasks(split, 10_000)
    count = int(re.search(r"arithmetic has (\d+) ", str(refused.value)).group(1))
    return arithmetic.tasks(split, count)


@pytest.mark.parametrize("level", [1, 2, 5, 20])
def test_the_level_of_arithmetic_is_the_digits_of_the_longer_number(level):
    for task in arithmetic.tasks("train", 50, level=level):
        left, _, right = _text(task).split()
        assert max(len(left), len(right)) == level
        assert task.answer == str(eval(_text(task)))


@pytest.mark.parametrize("level", [1, 3, 12])
def test_expressions_come_to_what_python_says(level):
    tasks = expressions.tasks("held_out", 60, level=level)
    for task in tasks:
        assert task.answer == str(eval(_text(task)))
        assert len(re.findall(r" (\+|-|\*|//|%) ", _text(task))) == level + 1
    assert any("%" in _text(task) for task in tasks)


@given(st.randoms(use_true_random=False), st.integers(0, 9))
def test_no_parenthesis_is_needless(rng, operators):
    expression = grow(rng, operators, 20)
    text = written(expression)
    assert eval(text) == value(expression)
    for opening in (i for i, letter in enumerate(text) if letter == "("):
        closing = _closing(text, opening)
        bare = text[:opening] + text[opening + 1 : closing] + text[closing + 1 :]
        assert _tree(bare) != _tree(text)


def _closing(text, opening):
    depth = 0
    for i in range(opening, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise AssertionError


def _tree(text):
    return ast.dump(ast.parse(text))


@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_expressions_of_one_meaning_have_one_value_and_one_split(rng, operators):
    expression = grow(rng, operators, 20)
    mirrored = _mirrored(expression)
    assert meaning(mirrored) == meaning(expression)
    assert value(mirrored) == value(expression)
    assert held_out(meaning(mirrored)) == held_out(meaning(expression))


def test_sums_and_products_mean_the_same_however_they_are_ordered_and_grouped():
    minus_five = operate("-", 7, 5)
    same = [
        operate("+", minus_five, 3),
        operate("+", 3, minus_five),
        operate("-", operate("+", 3, 7), 5),
        operate("-", 7, operate("-", 5, 3)),
    ]
    assert len({meaning(expression) for expression in same}) == 1
    assert meaning(operate("*", operate("*", 2, 3), 4)) == meaning(operate("*", 3, operate("*", 4, 2)))
    assert meaning(operate("-", 7, operate("+", 5, 3))) != meaning(same[0])
    assert meaning(operate("*", operate("+", 2, 3), 4)) != meaning(operate("+", operate("*", 2, 3), 4))
    assert meaning(operate("-", 3, 4)) != meaning(operate("-", 4, 3))


def _mirrored(expression):
    if isinstance(expression, int):
        return expression
    left, right = _mirrored(expression.left), _mirrored(expression.right)
    return operate(expression.symbol, *((right, left) if expression.symbol in "+*" else (left, right)))


def test_only_the_answer_to_the_letter_passes():
    task = next(task for task in arithmetic.tasks("train", 100, level=2) if task.answer == str(abs(int(task.answer))))
    answer = task.answer
    for good in (task.solution(), answer, f" {answer}", f"  {answer} \nCompute 1 + 1", f"{answer}\n\n"):
        assert task.check(good, None).outcome == "pass", good
    bad = (
        f"{answer}0",
        f"0{answer}",
        f"{answer}.0",
        f"+{answer}",
        f"-{answer}",
        f"{answer} {answer}",
        f"{answer}.",
        f"\n{answer}",
        f"is {answer}",
        f"{answer},",
        f"{answer}\r\n",
        f"\ud800{answer}",
        f"{answer}\0",
        "\u0661",
    )
    for text in bad:
        verdict = task.check(text, None)
        assert (verdict.outcome, verdict.score) == ("fail", 0.0), text
    assert task.check("9" * (1 << 20), None).outcome == "fail"


def test_a_thousand_tasks_a_second():
    start = perf_counter()
    arithmetic.tasks("train", 2000, level=6)
    arithmetic.tasks("held_out", 2000, level=6)
    assert perf_counter() - start < 4


@pytest.mark.parametrize("level", [1, 2, 6])
def test_no_single_answer_to_expressions_is_right_often(level):
    answers = Counter(task.answer for task in expressions.tasks("train", 300, level=level, seed=4))
    assert answers.most_common(1)[0][1] < 0.15 * 300
