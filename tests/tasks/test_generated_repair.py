"""Repair: one bug is planted and shows; the original passes in the sandbox, and the program as it stands does not."""

import ast
import re

import pytest
from in_process import InProcess

from eco.sandbox import Sandbox
from eco.tasks.generate.compose import LEVELS
from eco.tasks.generate.mutation import mutants
from eco.tasks.sets import repair


@pytest.fixture(scope="module")
def tasks():
    return [task for level in range(1, LEVELS + 1) for task in repair.tasks("train", 25, level=level, seed=7)]


def _buggy(task):
    start = task.prompt.index("def solve(")
    return task.prompt[start : task.prompt.index("\n\n# solve(", start) + 1]


def test_solutions_pass_and_the_program_as_it_stands_does_not(tasks):
    with Sandbox() as sandbox:
        for task in tasks[::5]:
            assert task.check(task.solution(), sandbox).outcome == "pass"
            assert task.check(_buggy(task), sandbox).outcome != "pass"
    for task in tasks:
        assert task.check(task.solution(), InProcess()).outcome == "pass"
        assert task.check(_buggy(task), InProcess()).outcome == "fail"


def test_one_place_is_changed(tasks):
    for task in tasks:
        right, wrong = task.signature + task.solution(), _buggy(task)
        assert wrong in mutants(right)
        assert sum(a != b for a, b in zip(right.splitlines(), wrong.splitlines(), strict=True)) == 1


def test_the_call_that_is_shown_goes_wrong_and_is_not_hidden(tasks):
    for task in tasks:
        comment = " ".join(line[2:] for line in task.prompt.split("\n\n")[-1].splitlines() if line.startswith("# "))
        said = re.fullmatch(r"(solve\(.*\)) (?:returns (.*)|raises (\w+))\. It should return (.*)\. Repaired:", comment)
        call, returned, raised, expected = said.groups()
        right, wrong = {}, {}
        exec(task.signature + task.solution(), right)
        exec(_buggy(task), wrong)
        assert eval(call, right) == ast.literal_eval(expected)
        if returned is not None:
            assert eval(call, wrong) == ast.literal_eval(returned) != ast.literal_eval(expected)
        else:
            with pytest.raises(Exception) as error:
                eval(call, wrong)
            assert type(error.value).__name__ == raised
        assert call not in [f"solve({example.given!r})" for example in task.hidden]


def test_the_document_is_python(tasks):
    for task in tasks:
        assert len(ast.parse(task.prompt + task.solution()).body) == 2
        assert max(map(len, task.prompt.splitlines())) <= 160


def test_constants_copies_and_the_shown_call_by_heart_pass_nothing(tasks):
    for task in tasks:
        parameter = task.signature[len("def solve(") : -len("):\n")]
        for answer in ("0", "1", "[]", "''", "{}", "True", "False", "None", parameter):
            assert task.check(f"    return {answer}\n", InProcess()).outcome == "fail"
        comment = " ".join(line[2:] for line in task.prompt.split("\n\n")[-1].splitlines() if line.startswith("# "))
        given, expected = re.search(
            r"solve\((.*)\) (?:returns|raises) .* It should return (.*)\. Repaired:", comment
        ).groups()
        by_heart = f"    if {parameter} == {given}:\n        return {expected}\n"
        assert task.check(by_heart + _buggy(task).partition("\n")[2], InProcess()).outcome == "fail"


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("def f(x):\n    return x + 3\n", ["x - 3", "x + 2", "x + 4"]),
        ("def f(x):\n    return (x * 2) // x\n", ["(x + 2) // x", "(x * 1) // x", "(x * 3) // x", "(x * 2) * x"]),
        (
            "def f(x):\n    return 1 < x <= x\n",
            ["0 < x <= x", "2 < x <= x", "1 <= x <= x", "1 > x <= x", "1 < x < x", "1 < x >= x"],
        ),
        ("def f(x):\n    return 'a' in x and x\n", ["'a' not in x and x", "'a' in x or x"]),
        ("def f(x):\n    return 'a' not in x\n", ["'a' in x"]),
        ("def f(x):\n    return x[-1], True, 'b + 1'\n", ["x[-0], True, 'b + 1'", "x[-2], True, 'b + 1'"]),
    ],
)
def test_bugs_are_one_token_each(source, changed):
    found = mutants(source)
    assert sorted(found) == sorted(f"def f(x):\n    return {line}\n" for line in changed)
