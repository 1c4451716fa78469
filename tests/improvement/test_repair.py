"""Retries: what they are shown and what never, when they stop, and that they bring what a second look can bring."""

import ast
import json
import re
from pathlib import Path

import pytest
from cribs import Crib, doubling, given
from hypothesis import given as for_all
from hypothesis import strategies as st

from eco.improvement.prompts import with_answer
from eco.improvement.repair import retries
from eco.improvement.rollout import attempt
from eco.inference.sampling import Sampling
from eco.sandbox import Sandbox
from eco.tasks.generate.examples import Example
from eco.tasks.generate.program import ProgramTask
from eco.tasks.sets import arithmetic, gsm8k, humaneval, mbpp, prediction
from eco.tasks.verdict import Verdict

RIGHT, WRONG, RAISES = "    return 2 * value\n", "    return value\n", "    return missing\n"
SAMPLING = Sampling(max_new_tokens=6, temperature=1.0, seed=3)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=2) as opened:
        yield opened


def heeds(prompt, number, seed):
    """Solves the task once it has been shown both of its mistakes, one after the other."""
    if "NameError" in prompt:
        return RIGHT
    return RAISES if "0 of 3 hidden calls are right" in prompt else WRONG


def test_a_model_that_heeds_its_errors_gets_there_and_then_stops(sandbox):
    crib = Crib(heeds)
    groups = attempt(crib, [doubling("a")], sandbox, SAMPLING, 2)
    assert not any(a.passed for a in groups[0])
    (further,) = retries(crib, groups, sandbox, SAMPLING, 5)
    assert [(a.completion.text, a.retry, a.passed) for a in further] == [(RAISES, 1, False), (RIGHT, 2, True)]
    assert further[0].prompt == (
        "# An earlier answer:\n#     return value\n"
        "# Verdict: 0 of 3 hidden calls are right; another result than expected\n" + doubling("a").prompt
    )
    assert "NameError: name 'missing' is not defined\n" in further[1].prompt
    (cut_short,) = retries(Crib(heeds), groups, sandbox, SAMPLING, 1)
    assert [a.retry for a in cut_short] == [1]
    assert retries(Crib(heeds), groups, sandbox, SAMPLING, 0) == [[]]


def test_only_unsolved_and_judged_groups_are_tried_again_in_their_places(sandbox):
    a, b, c = doubling("a"), doubling("b"), doubling("c")
    groups = [
        [given(a, WRONG), given(a, RIGHT, "pass", 1.0)],
        [],
        [given(b, WRONG, "infrastructure")],
        [given(c, WRONG), given(c, RAISES), given(c, "    return 0\n", "infrastructure")],
    ]
    crib = Crib(lambda *_: RIGHT)
    further = retries(crib, groups, sandbox, SAMPLING, 3)
    assert [len(group) for group in further] == [0, 0, 0, 1]
    assert "return missing" in further[3][0].prompt and "return 0" not in further[3][0].prompt
    assert len(crib.asked) == 1


def test_the_same_failure_shown_again_is_answered_by_another_draw(sandbox):
    groups = [[given(doubling("a"), WRONG, detail="why")]]
    crib = Crib(lambda *_: WRONG)
    (further,) = retries(crib, groups, sandbox, SAMPLING, 3)
    assert further[1].prompt == further[2].prompt
    seeds = [sampling.seed for _, sampling, _ in crib.asked]
    assert len({*seeds, SAMPLING.seed}) == 4
    again = Crib(lambda *_: WRONG)
    retries(again, groups, sandbox, SAMPLING, 3)
    assert again.asked == crib.asked


def test_a_prompt_that_grew_too_long_is_skipped(sandbox):
    groups = [[given(doubling("a"), "    return value" + " + 0" * 100 + "\n")], [given(doubling("b"), WRONG)]]
    further = retries(Crib(lambda *_: RIGHT, context=300), groups, sandbox, SAMPLING, 2)
    assert [len(group) for group in further] == [0, 1]


@for_all(st.text(max_size=300), st.text(max_size=300))
def test_whatever_the_model_wrote_the_program_before_the_prompt_is_comments(answer, verdict):
    prompt = with_answer(doubling(), answer, verdict)
    head = prompt.removesuffix(doubling().prompt)
    assert all(line.startswith("#") for line in head.split("\n")[:-1])
    assert ast.dump(ast.parse(prompt + RIGHT)) == ast.dump(ast.parse(doubling().prompt + RIGHT))
    assert prompt.encode().decode() == prompt and "\0" not in prompt


def test_what_is_shown_is_bounded_whatever_the_size_of_the_answer():
    shown = with_answer(doubling(), "    x = 1\n" * 10_000, "y" * 10_000)
    assert len(shown) < 1600 and shown.count("...") == 2


def test_answers_in_words_are_shown_in_plain_lines(sandbox):
    (task,) = arithmetic.tasks("train", 1)
    (further,) = retries(Crib(lambda *_: " x"), [[given(task, " 77")]], sandbox, SAMPLING, 1)
    assert further[0].prompt == f"An earlier answer:\n 77\nVerdict: wrong\n{task.prompt}"


SECRET = 918273645


def shown_after(task, sandbox, completion):
    """The prompt of a retry, without the task's own and the failed answer; and the verdict that it was made from."""
    groups = attempt(Crib(lambda *_: completion), [task], sandbox, SAMPLING, 1)
    (further,) = retries(Crib(lambda *_: completion), groups, sandbox, SAMPLING, 1)
    assert not groups[0][0].passed
    return further[0].prompt.removesuffix(task.prompt).split("Verdict: ")[1], groups[0][0].verdict


def program_task(tmp_path):
    hidden = (Example(5, SECRET), Example([], [str(SECRET)]))
    return ProgramTask("p", "def solve(value):\n", "def solve(value):\n", f"    return {SECRET}\n", hidden)


def humaneval_task(tmp_path):
    row = {
        "task_id": "Own/0", "prompt": "def area(r):\n", "entry_point": "area", "canonical_solution": "    return 1\n",
        "test": f"def check(candidate):\n    assert candidate(5) == {SECRET}, 'not {SECRET}'\n",
    }  # fmt: skip
    (tmp_path / "h.jsonl").write_text(json.dumps(row))
    return humaneval.tasks("held_out", 1, path=str(tmp_path / "h.jsonl"))[0]


def mbpp_task(tmp_path):
    tests = ["assert area(1) == 1", f"assert area(5) == {SECRET}"]
    row = {"task_id": 601, "text": "Area.", "code": "def area(r):\n    return 1", "test_list": tests}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    return mbpp.tasks("train", 1, path=str(tmp_path / "m.jsonl"))[0]


def gsm8k_task(tmp_path):
    (tmp_path / "g.jsonl").write_text(json.dumps({"question": "How many?", "answer": f"All.\n#### {SECRET}"}))
    return gsm8k.tasks("train", 1, path=str(tmp_path / "g.jsonl"))[0]


@pytest.mark.parametrize("make", [program_task, humaneval_task, mbpp_task, gsm8k_task])
@pytest.mark.parametrize(
    "completion",
    [
        "    return 1\n",
        "def area(r):\n    return 1\n",
        "def area(r):\n    raise ValueError(r)\n",
        "def area(r):\n    return [r] * 1000\n",
        "    import os\n    os._exit(3)\n",
        "    return (\n",
        "#### 17",
        "no idea",
    ],
)
def test_no_expected_value_is_ever_shown(make, completion, sandbox, tmp_path):
    shown, _ = shown_after(make(tmp_path), sandbox, completion)
    assert str(SECRET) not in shown and shown.count("\n") == 1
    assert f"{SECRET:,}" not in shown and f"{SECRET:x}" not in shown


def test_the_details_that_would_have_told_it_do_tell_it(sandbox, tmp_path):
    told = [
        (humaneval_task(tmp_path), "    return 1\n"),
        (mbpp_task(tmp_path), "def area(r):\n    return 1\n"),
        (gsm8k_task(tmp_path), "#### 17"),
    ]
    assert all(str(SECRET) in task.check(text, sandbox).detail for task, text in told)


@pytest.mark.parametrize("set_of_tasks", [arithmetic, prediction])
def test_answers_of_one_line_are_not_shown_either(set_of_tasks, sandbox):
    for task in set_of_tasks.tasks("train", 20):
        shown, verdict = shown_after(task, sandbox, " none at all")
        assert shown == "wrong\n" and task.answer in verdict.detail


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published files are not here")
def test_of_the_published_tests_nothing_but_the_outcome_is_said(sandbox):
    tasks = [
        *humaneval.tasks("held_out", 6, path=str(SHARED / "humaneval" / "humaneval_first82.jsonl")),
        *mbpp.tasks("train", 6, path=str(SHARED / "mbpp" / "mbpp_prompt_val_train.jsonl")),
    ]
    for task in tasks:
        name = getattr(task, "entry_point", None) or re.findall(r"(\w+)\(", task.prompt.split("assert")[1])[0]
        shown, verdict = shown_after(task, sandbox, f"def {name}(*args):\n    return ...\n")
        assert (shown, verdict.outcome) == ("wrong\n", "fail")


@pytest.mark.parametrize("outcome", ["timeout", "memory", "crash", "tamper"])
def test_what_ended_a_program_is_said_in_words(outcome):
    (task,) = arithmetic.tasks("train", 1)
    assert 1 < len(task.feedback(Verdict(outcome, 0.0, "SECRET")).split()) < 6
