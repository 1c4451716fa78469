"""MBPP: prompts, published splits, and what its assertions say."""

from pathlib import Path

import pytest

from eco.tasks.sets import mbpp

SHARED = Path(__file__).parents[3] / "shared" / "data" / "mbpp" / "mbpp_prompt_val_train.jsonl"

ROW = {
    "task_id": 601,
    "text": "Write a function to add two numbers. ",
    "code": "def add(a, b):\r\n\treturn a + b",
    "test_setup_code": "",
    "test_list": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert add(0.5, 1) == 1.5"],
    "challenge_test_list": ["assert add(10**30, 1) == 10**30 + 1"],
}
PAIRS = {
    "task_id": 602,
    "text": "Write a class of pairs and a function that sums one.",
    "code": "class Pair:\n  def __init__(self, a):\n    self.a, self.b = a, 0\n\ndef total(p):\n  return p.a + p.b",
    "test_setup_code": "from math import floor\r\npair = Pair(1)\r\npair.b = 4",
    "test_list": ["assert total(Pair(3)) == floor(3.5)", "assert total(pair) == 5"],
}


def test_the_prompt_shows_the_first_assertion_only(written):
    (task,) = mbpp.tasks("train", 5, path=written(ROW))
    assert task.name == "MBPP/601"
    assert task.prompt == '"""\nWrite a function to add two numbers.\nassert add(1, 2) == 3\n"""\n'
    assert task.solution() == "def add(a, b):\n\treturn a + b\n"


@pytest.mark.parametrize(
    ("completion", "outcome"),
    [
        ("def add(a, b):\n    return a + b\n", "pass"),
        ("add = lambda a, b: a + b", "pass"),
        ("from operator import add\n", "pass"),
        ("def add(a, b):\n    return a + b\n\nassert add(1, 2) == 4\n", "pass"),
        ("```python\ndef add(a, b):\n    return a + b\n```\nassert 0", "pass"),
        ("Try `add`:\n\n```\n1 + 1\n```\n\n```py\ndef add(a, b):\n    return a + b", "pass"),
        ("def add(a, b):\n    return 3\n", "fail"),
        ("def add(a, b):\n    return {3: 3, 0: 0, 1.5: 1.5}.get(a + b)\n", "fail"),
        ("def plus(a, b):\n    return a + b\n", "fail"),
        ("def add(a, b):\nreturn a + b\n", "fail"),
        ("raise SystemExit(0)\n", "fail"),
        ("import sys; sys.exit(0)\n", "fail"),
        ("def add(a, b):\n    raise SystemExit(0)\n", "fail"),
        ("x = '\ud800'\n", "fail"),
        ("x = 1\x00\n", "fail"),
    ],
)
def test_every_assertion_must_hold(written, sandbox, completion, outcome):
    (task,) = mbpp.tasks("train", 5, path=written(ROW))
    verdict = task.check(completion, sandbox)
    assert (verdict.outcome, verdict.score) == (outcome, float(outcome == "pass"))


@pytest.mark.parametrize(
    "completion", ["", "\n ", "pass", "# def add(a, b): 0", '"""\ndef add(a, b): 0\n"""', "```\n```"]
)
def test_a_program_that_defines_nothing_fails_even_trivial_tests(written, completion):
    (task,) = mbpp.tasks("train", 5, path=written(ROW | {"test_list": ["assert True"], "challenge_test_list": []}))
    assert task.check(completion, None).outcome == "fail"  # without being run


def test_arguments_of_the_programs_own_classes(written, sandbox):
    (task,) = mbpp.tasks("train", 5, path=written(PAIRS))
    assert task.check(task.solution(), sandbox).outcome == "pass"
    assert task.check(task.solution().replace("+", "-"), sandbox).outcome == "fail"


def test_the_tests_do_not_take_the_programs_word_for_a_module(written, sandbox):
    (task,) = mbpp.tasks("train", 5, path=written(PAIRS))
    cheat = "class Any:\n    pass\ndef Pair(a): return Any()\ndef floor(x): return 7\ndef total(p): return 7\n"
    assert task.check(cheat, sandbox).outcome == "fail"


SUM = {
    "task_id": 603,
    "text": "Write a function to find the digits that occur in a list of numbers.",
    "code": "def sum(numbers):\r\n\treturn [int(digit) for n in numbers for digit in str(n)]",
    "test_list": ["assert set(sum([12, 2])) == set([1, 2])", "assert sorted(sum([31])) == [1, 3]"],
}


@pytest.mark.parametrize(
    ("completion", "outcome"),
    [
        (SUM["code"], "pass"),
        ("def sum(a): return 1\ndef set(a): return 1\ndef sorted(a): return [1, 3]", "fail"),
        ("def sum(a): return [1, 2]\ndef sorted(a): return [1, 3]", "fail"),
        ("def total(a): return [1, 2]\ndef set(a): return 1\ndef sorted(a): return [1, 3]", "fail"),
    ],
)
def test_a_function_called_like_a_builtin_is_the_only_one_that_the_program_gives(written, sandbox, completion, outcome):
    (task,) = mbpp.tasks("train", 5, path=written(SUM))
    assert task.check(completion, sandbox).outcome == outcome


def test_a_builtin_is_not_the_programs_function(written, sandbox):
    (task,) = mbpp.tasks("train", 5, path=written(SUM | {"test_list": ["assert sum([1, 2]) == 3"]}))
    assert task.check("def total(a): return 0", sandbox).outcome == "fail"


def test_splits_are_those_published(written):
    path = written(*(ROW | {"task_id": number} for number in (1, 10, 11, 510, 511, 600, 601, 974)))
    assert [task.name for task in mbpp.tasks("train", 9, path=path)] == ["MBPP/601", "MBPP/974"]
    held_out = [task.name for task in mbpp.tasks("held_out", 9, path=path)]
    assert held_out == ["MBPP/11", "MBPP/510", "MBPP/511", "MBPP/600"]
    with pytest.raises(ValueError, match="holds none of the tasks 11 to 510, 511 to 600"):
        mbpp.tasks("held_out", 9, path=written(ROW))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"test_list": []}, "'test_list' holds no test"),
        ({"test_list": [" "]}, "'test_list' holds no test"),
        ({"test_list": ["assert add(1, 2) == 3", 4]}, "'test_list.1': Input should be a valid string"),
        ({"task_id": 601}, "the task_id 601 was there before"),
        ({"task_id": "601"}, "'task_id': Input should be a valid integer"),
        ({"code": None}, "'code': Input should be a valid string"),
    ],
)
def test_malformed_rows_are_named(written, change, told):
    with pytest.raises(ValueError, match=rf"set\.jsonl, line 2: {told}"):
        mbpp.tasks("train", 5, path=written(ROW, ROW | {"task_id": 602} | change))


@pytest.mark.skipif(not SHARED.is_file(), reason="MBPP is not in ../shared/data")
def test_published_solutions_pass_with_the_expected_values_withheld(sandbox):
    train, held_out = (mbpp.tasks(split, 1000, path=str(SHARED)) for split in ("train", "held_out"))
    assert (len(train), len(held_out)) == (374, 90)
    assert not any(stop in task.solution() for task in train + held_out for stop in task.stop)
    failed = [task.name for task in train + held_out if task.check(task.solution(), sandbox).outcome != "pass"]
    assert len(failed) <= 0.005 * (len(train) + len(held_out)), failed
