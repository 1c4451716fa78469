"""GSM8K: the published answers, and what counts as one."""

from fractions import Fraction
from pathlib import Path

import pytest

from eco.tasks.sets import gsm8k

SHARED = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "gsm8k_train_first1000.jsonl"

ROW = {
    "question": "Anna has 3 bags of 350 beads and loses 10. How many are left?\n",
    "answer": "She had 3*350=<<3*350=1050>>1050 beads.\nSo 1050-10=<<1050-10=1040>>1040 are left.\n#### 1,040",
}


def test_a_task_of_a_row(written):
    (task,) = gsm8k.tasks("train", 5, path=written(ROW))
    assert task.name == "GSM8K/train/1"
    assert task.expected == Fraction(1040)
    assert task.prompt == "Question: Anna has 3 bags of 350 beads and loses 10. How many are left?\nAnswer:"
    assert task.solution() == " She had 3*350=1050 beads.\nSo 1050-10=1040 are left.\n#### 1,040\n"


def test_only_the_right_number_passes_and_only_of_the_first_answer(written):
    (task,) = gsm8k.tasks("train", 5, path=written(ROW))
    for passes in (task.solution(), " 1040", "#### 1040\n\nQuestion: 1 + 1?\nAnswer: 2", "\\boxed{1,040}"):
        assert task.check(passes, None).outcome == "pass"
    for fails in (
        "",
        " \n",
        "1041",
        "#### 1041",
        "\nQuestion: x\n#### 1040",
        "1040 beads",
        "<<1040>>",
        task.prompt,
        "\ud800",
    ):
        assert task.check(fails, None).outcome == "fail"


def test_an_endless_completion_is_not_read(written):
    (task,) = gsm8k.tasks("train", 5, path=written(ROW))
    verdict = task.check("1" * 100_000_000 + "\n#### 1040", None)
    assert verdict.outcome == "fail" and "longer than" in verdict.detail


@pytest.mark.parametrize("answer", ["1040", "#### ", "#### many", "####1\n#### 1 or 2"])
def test_a_row_without_a_number_is_named(written, answer):
    with pytest.raises(ValueError, match=r"set\.jsonl, line 2: 'answer' does not end with #### and a number"):
        gsm8k.tasks("train", 5, path=written(ROW, {"question": "?", "answer": answer}))


@pytest.mark.skipif(not SHARED.is_file(), reason="the first rows of GSM8K are not in ../shared/data")
def test_published_answers_pass_and_others_fail():
    tasks = gsm8k.tasks("train", 10_000, path=str(SHARED))
    assert len(tasks) == 1000
    for task in tasks:
        assert task.check(task.solution(), None).outcome == "pass"
        assert task.check(f"#### {task.expected + 1}", None).outcome == "fail"
        assert "<<" not in task.solution() and task.stop[0] not in task.solution()
