"""Synthesis: solutions pass in the sandbox, nothing else does that should not, and the splits know what programs do."""

import ast
import doctest
import re
from itertools import chain
from time import perf_counter
from types import SimpleNamespace

import pytest
from in_process import InProcess

from eco.sandbox import Sandbox
from eco.tasks.generate.compose import LEVELS
from eco.tasks.generate.composition import Chain
from eco.tasks.generate.inputs import probes
from eco.tasks.generate.mutation import mutants
from eco.tasks.generate.primitive import Step
from eco.tasks.generate.primitives import dicts, lists, numbers, strings
from eco.tasks.generate.program import same
from eco.tasks.sets import synthesis


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as opened:
        yield opened


@pytest.fixture(scope="module")
def tasks():
    levels = range(1, LEVELS + 1)
    return [task for level in levels for task in synthesis.tasks("train", 40, level=level, seed=11)]


def test_solutions_pass(tasks, sandbox):
    for task in chain(tasks[::8], synthesis.tasks("held_out", 10, level=2)):
        verdict = task.check(task.solution(), sandbox)
        assert (verdict.outcome, verdict.score) == ("pass", 1.0), (task.prompt + task.solution(), verdict)
    for task in tasks:
        assert task.check(task.solution(), InProcess()).outcome == "pass"


def test_prompt_and_solution_are_a_function_whose_shown_examples_are_true(tasks):
    for task in tasks:
        document = task.prompt + task.solution()
        assert len(ast.parse(document).body) == 1
        names = {}
        exec(document, names)
        (test,) = doctest.DocTestFinder().find(names["solve"], "solve", module=False, globs=names)
        assert len(test.examples) == 3
        assert doctest.DocTestRunner().run(test).failed == 0, document


def test_hidden_calls_are_not_shown(tasks):
    for task in tasks:
        shown = {line[4:] for line in re.findall(r">>> .*", task.prompt)}
        hidden = [f"solve({example.given!r})" for example in task.hidden]
        assert len(set(hidden)) == len(hidden) >= 10
        assert not shown & set(hidden)


def test_constants_copies_and_the_shown_examples_by_heart_pass_nothing(tasks):
    constants = ("0", "1", "-1", "[]", "''", "{}", "True", "False", "None", "[0]", "'a'")
    for task in tasks:
        parameter = _parameter(task)
        shown = dict(re.findall(r">>> solve\((.*)\)\n +(.*)", task.prompt))
        by_heart = f"{{{', '.join(f'{k!r}: {v}' for k, v in shown.items())}}}.get(repr({parameter}))"
        for answer in (*constants, *shown.values(), parameter, by_heart):
            verdict = task.check(f"    return {answer}\n", InProcess())
            assert verdict.outcome == "fail" and verdict.score <= 0.7, (task.prompt, answer)


def test_almost_every_planted_bug_fails(tasks):
    """A bug that nothing shows, as in `max(n, 0) >= 0`, is none; there are few of these."""
    verdicts = [
        task.check(mutant[len(task.signature) :], InProcess()).outcome
        for task in tasks
        for mutant in mutants(task.signature + task.solution())
    ]
    assert len(verdicts) > 1000
    assert verdicts.count("fail") > 0.95 * len(verdicts)


def test_the_type_of_a_result_counts(tasks):
    for task in tasks:
        kinds = "{bool: int, int: float, list: tuple, str: list, dict: list}"
        whole = (task.signature + task.solution()).replace("solve", "other")
        body = f"    result = other({_parameter(task)})\n    return {kinds}[type(result)](result)\n"
        program = f"{whole}\n{task.signature}{body}"
        assert task.check(program, InProcess()).outcome == "fail", program


def _parameter(task):
    return task.signature[len("def solve(") : -len("):\n")]


@pytest.mark.parametrize(
    ("result", "expected", "equal"),
    [
        (1, 1, True),
        (1, True, False),
        (1.0, 1, False),
        ([1, "a"], [1, "a"], True),
        ([True], [1], False),
        ((1,), [1], False),
        ([1], [1, 2], False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"b": 1}, False),
        ({1: 1, 2: 1}, {2: 1, 1: 1}, True),
        ({True: 1}, {1: 1}, False),
        ({(1, 2.0): 1}, {(1, 2): 1}, False),
        ({}, [], False),
        (None, 0, False),
    ],
)
def test_what_counts_as_the_same(result, expected, equal):
    assert same(result, expected) == equal


def _step(steps, words, *constants):
    (primitive,) = (p for p in steps if p.words == words)
    return Step(primitive, constants)


def test_functions_that_do_the_same_have_one_meaning():
    add, multiply = (lambda a: _step(numbers.STEPS, "add $a", a)), (lambda a: _step(numbers.STEPS, "multiply by $a", a))
    both = _step(numbers.STEPS, "add $a and multiply by $b", 3, 5)
    reverse, ascending = (_step(lists.STEPS, w) for w in ("reverse the order", "sort the values in ascending order"))
    descending = _step(lists.STEPS, "sort the values in descending order")

    def meaning(kind, *steps):
        return Chain(kind, steps).meaning()

    assert meaning("number", add(3), add(4)) == meaning("number", add(7))
    assert meaning("number", add(3), multiply(5)) == meaning("number", both)
    assert meaning("number", add(3), multiply(5)) != meaning("number", multiply(5), add(3))
    assert meaning("numbers", ascending, reverse) == meaning("numbers", descending)
    assert meaning("numbers", reverse, ascending) == meaning("numbers", ascending)


def test_every_step_has_a_value_for_every_value():
    """Each primitive, with its outermost constants, on what steps of the level before make of the probes."""
    values = {kind: list(probes(kind)) for kind in ("number", "text", "numbers", "counts")}
    values |= {"words": [[], ["a"], ["", "Dot", "in it"]], "truth": []}
    types = {"number": int, "text": str, "numbers": list, "words": list, "counts": dict, "truth": bool}
    everything = (*numbers.STEPS, *lists.STEPS, *strings.STEPS, *dicts.STEPS)
    assert len({primitive.words + primitive.takes for primitive in everything}) == len(everything) > 150
    for _ in range(2):
        for primitive in everything:
            for end in (0, -1):
                step = Step(primitive, tuple(choice[end] for choice in primitive.choices))
                results = step.apply(values[primitive.takes])
                assert {type(result) for result in results} == {types[primitive.gives]}, step.words
                values[primitive.gives] = values[primitive.gives] + results[:3]


GOOD = "    return sum(numbers)\n"


@pytest.fixture(scope="module")
def summing():
    task = next(
        t for t in synthesis.tasks("train", 500, seed=2) if t.solution().startswith("    return sum(numbers) + ")
    )
    return task


def test_what_is_taken_from_a_completion(summing, sandbox):
    body = summing.solution()
    whole = summing.signature + body
    for completion in (
        body,
        "\n" + body,
        f"    # well\n{body}print(1 / 0)\n",
        whole,
        f"Here it is:\n```python\n{whole}```\nI hope it helps.",
        f"```\n{body}```",
        f"```bash\npip install nothing\n```\n\n```python\n{whole}```",
        f"{body}\nIt works:\n```python\nprint(solve([]))\n```\n",
        f"import math\n\n{whole}\nprint(solve([]))",
        f"{body}\n\ndef solve(numbers):\n    return 0\n",
    ):
        assert summing.check(completion, sandbox).outcome == "pass", completion


def test_what_is_no_answer_gets_a_verdict(summing, sandbox):
    for completion in (
        "",
        " \n\t",
        "    # nothing\n",
        "    pass\n",
        "return 3",
        "solve = 3\n",
        "def other(numbers):\n    return 1\n",
        "    return (\n",
        "    return 1\0\n",
        "    return '\ud800'\n",
        "    return " + "[" * 5000 + "]" * 5000 + "\n",
        "    return solve(numbers)\n",
        "    return (n for n in numbers)\n",
        "    return 9 ** 9 ** 5\n",
        "    class Wide(int):\n        __eq__ = lambda self, other: True\n    return Wide(3)\n",
        "    import os\n    os._exit(0)\n",
        "    x = []\n    x.append(x)\n    return x\n",
    ):
        verdict = summing.check(completion, sandbox)
        assert verdict.outcome not in ("pass", "infrastructure") and verdict.score < 1, completion


@pytest.mark.parametrize("kind", ["infrastructure", "tamper", "memory", "timeout", "crash"])
def test_the_worst_outcome_is_the_verdict(summing, kind):
    right = [SimpleNamespace(kind="pass", value=example.expected, detail="") for example in summing.hidden]
    bad = SimpleNamespace(kind=kind, value=None, detail="told")
    verdict = summing.check(GOOD, SimpleNamespace(run=lambda program, calls: [*right[:-1], bad]))
    assert (verdict.outcome, verdict.score, verdict.detail) == (kind, 0.0, "told")


def test_the_score_is_the_share_of_right_calls(summing):
    wrong = SimpleNamespace(kind="pass", value=None, detail="")
    outcomes = [SimpleNamespace(kind="pass", value=example.expected, detail="") for example in summing.hidden]
    outcomes[0] = wrong
    verdict = summing.check(GOOD, SimpleNamespace(run=lambda program, calls: outcomes))
    assert verdict.outcome == "fail"
    assert verdict.score == pytest.approx(1 - 1 / len(outcomes))


def test_hundreds_of_tasks_a_second():
    start = perf_counter()
    synthesis.tasks("train", 200, level=2, seed=8)
    assert perf_counter() - start < 2
