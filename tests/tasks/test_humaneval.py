"""HumanEval: which program a completion makes of a prompt, and what its tests say."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from eco.tasks.sets import humaneval

SHARED = Path(__file__).parents[3] / "shared" / "data" / "humaneval" / "humaneval_first82.jsonl"

PROMPT = '''import math


def scaled(x):
    return 3 * x


def area(r):
    """ Area of a disc, as text: "f(" and
def area(
    """
'''
ROW = {
    "task_id": "Own/0",
    "prompt": PROMPT,
    "entry_point": "area",
    "canonical_solution": "    return math.pi * r * r\n",
    "test": "def check(candidate):\n    assert candidate(scaled(1)) == 9 * math.pi\n    assert candidate(0) == 0\n",
}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "set.jsonl"
    path.write_text(json.dumps(ROW))
    return humaneval.tasks("held_out", 5, path=str(path))[0]


BODY = "    return math.pi * r ** 2\n"
WHOLE = f"def area(r):\n{BODY}"


@pytest.mark.parametrize(
    "completion",
    [
        *(
            BODY,
            "\n" + BODY,
            "    # round\n" + BODY,
            BODY + "print(1 / 0)\n",
            BODY + "```\nThat is it.\n",
            BODY.rstrip(),
        ),
        *(BODY + "\nassert 0\n    more", "    s = '''\nx\n'''\n" + BODY, "    t = (\n1)\n# odd\n" + BODY),
        *(WHOLE, "from math import pi\n\n" + WHOLE, WHOLE + "\nprint(1 / 0)\n", "Sure, here:\n\n" + WHOLE),
        *(f"```python\n{WHOLE}```", f"Sure:\n\n```\nx = 1\n```\n\n```py\n{WHOLE}```\nIt works.", f"```\n{BODY}```"),
        *(f"```python\n{WHOLE}", f"```python\n{PROMPT}{BODY}```", "def scaled(x):\n    return 0\n\n" + WHOLE),
    ],
)
def test_right_completions_pass(task, sandbox, completion):
    assert task.check(completion, sandbox) == humaneval.Verdict("pass", 1.0, "")


@pytest.mark.parametrize(
    "completion",
    [
        *(
            "    return 3 * r * r\n",
            "    pass\n",
            "    return\n",
            "    raise SystemExit(0)\n",
            "    import os; os._exit(0)\n",
        ),
        *(
            "    return (\n",
            "def other(r):\n    return 1\n",
            "return math.pi * r * r\n",
            "x = 1",
            "area = 3",
            "words\n" + BODY,
        ),
        *("def area(r): return 0\ndef scaled(x): return 0\n", f"```\n{WHOLE.replace('area', 'surface')}```"),
        *(
            "    return '\ud800'\n",
            "    return 0 \x00\n",
            "    return [" * 2000,
            "    return " + "(" * 5000 + ")" * 5000 + "\n",
        ),
        *("    return (x for x in [r])\n", "    return object()\n", "    return 10 ** 5000\n", "    return area(r)\n"),
        *(
            "    a = []; a.append(a); return a\n",
            "    return " + "-" * 100_000 + "1\n",
            "    x = '" + "y" * 200_000 + "'\n",
        ),
    ],
)
def test_wrong_and_malformed_completions_do_not_pass(task, sandbox, completion):
    verdict = task.check(completion, sandbox)
    assert verdict.outcome in ("fail", "crash", "memory", "timeout")
    assert verdict.score == 0 and verdict.detail


@pytest.mark.parametrize(
    "completion", ["", "  \n\t\n", "    # only a comment\n", "# note", "```\n```", "\x0b\x0c\u2003", "\n" * 99]
)
def test_empty_completions_fail_even_trivial_tests(sandbox, completion):
    task = humaneval.HumanEvalTask("a", PROMPT, "area", BODY, "def check(candidate):\n    candidate(0)\n")
    assert task.check(completion, sandbox).outcome == "fail"
    assert task.check("    0\n", sandbox).outcome == "pass"


def test_an_endless_completion_is_not_run(task):
    assert "longer than" in task.check("    x = 1\n" * 10_000_000, None).detail


def test_the_program_does_not_hold_the_tests(task):
    listening = Listening()
    assert task.check(BODY, listening) == humaneval.Verdict("tamper", 0.0, "told")
    assert "9 * math.pi" in listening.tests and "9 * math.pi" not in listening.program


class Listening:
    """A sandbox that keeps what it was asked."""

    def judge(self, program, tests):
        self.program, self.tests = program, tests
        return SimpleNamespace(kind="tamper", detail="told")


def test_training_on_it_is_refused():
    with pytest.raises(ValueError, match="humaneval is for measuring only"):
        humaneval.tasks("train", 5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompt": "x = 1\n"}, "the prompt does not define the entry_point 'area'"),
        ({"entry_point": "are"}, "the prompt does not define the entry_point 'are'"),
        ({"test": ""}, r"the test does not define check\(candidate\)"),
        ({"task_id": "Own/0"}, "the task_id 'Own/0' was there before"),
        ({"task_id": None}, "'task_id': Input should be a valid string"),
    ],
)
def test_malformed_rows_are_named(written, change, told):
    path = written(ROW, ROW | {"task_id": "Own/1"} | change)
    with pytest.raises(ValueError, match=rf"set\.jsonl, line 2: {told}"):
        humaneval.tasks("held_out", 5, path=path)


@pytest.mark.skipif(not SHARED.is_file(), reason="the first tasks of HumanEval are not in ../shared/data")
def test_published_solutions_pass_with_the_expected_values_withheld(sandbox):
    tasks = humaneval.tasks("held_out", 1000, path=str(SHARED))
    assert len(tasks) == 82
    for task in tasks:
        assert task.check(task.solution(), sandbox).outcome == "pass", task.name
        again = f"Here:\n```python\n{task.prompt}{task.solution()}```\n"
        assert task.program(again).endswith(task.prompt[len(task.preamble) :] + task.solution())
        assert task.check("    return None\n", sandbox).outcome == "fail", task.name
