"""Votes: what counts as the same behaviour, who wins, and that nothing expected is looked at."""

import pytest
from cribs import doubling, given
from hypothesis import example
from hypothesis import given as for_all
from hypothesis import strategies as st

from eco.improvement.majority import by_majority
from eco.sandbox import Limits, Sandbox
from eco.tasks.contract import NotJudged
from eco.tasks.generate.program import ProgramTask, canonical, same
from eco.tasks.sets import arithmetic, expressions, gsm8k, mbpp, prediction, repair, synthesis

DOUBLES = ["    return 2 * value\n", "    return value + value\n", "def solve(value):\n    return value << 1\n"]
OTHERS = ["    return value\n", "    return value * 2.0\n", "    return missing\n", "", "    # nothing\n", "print(1)\n"]


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=2) as opened:
        yield opened


class Sealed:
    """A hidden example whose expected value must not be read."""

    def __init__(self, given):
        self.given = given

    @property
    def expected(self):
        raise AssertionError("the expected value was read")


def sealed(task):
    """The same task, whose check cannot even be asked."""
    return ProgramTask(task.name, task.prompt, task.signature, "", tuple(Sealed(e.given) for e in task.hidden))


def outcomes(groups):
    return [[attempt.verdict.outcome for attempt in group] for group in groups]


def voted(sandbox, task, *texts, **options):
    return outcomes(by_majority([[given(task, text) for text in texts]], sandbox, **options))[0]


def test_the_votes_of_a_majority_that_is_right_are_the_verdicts_of_the_tests(sandbox):
    tasks = [*synthesis.tasks("train", 4, level=2), *repair.tasks("train", 2), *arithmetic.tasks("train", 2)]
    groups, truth = [], []
    for task in tasks:
        is_code = isinstance(task, ProgramTask)
        texts = [task.solution(), "    return None\n", task.solution(), "    return value\n", f"{task.solution()}\n"]
        groups.append([given(sealed(task) if is_code else task, text) for text in texts])
        truth.append([task.check(text, sandbox).outcome for text in texts])
    labelled = by_majority(groups, sandbox)
    assert outcomes(labelled) == truth == [["pass", "fail", "pass", "fail", "pass"]] * 8
    for group, was in zip(labelled, groups, strict=True):
        assert [(a.task, a.completion) for a in group] == [(a.task, a.completion) for a in was]


def test_programs_vote_by_what_they_return(sandbox):
    assert voted(sandbox, sealed(doubling()), *DOUBLES, *OTHERS[:3]) == ["pass"] * 3 + ["fail"] * 3
    with pytest.raises(AssertionError, match="was read"):
        sealed(doubling()).check(DOUBLES[0], sandbox)


def test_a_wrong_majority_is_believed(sandbox):
    assert voted(sandbox, doubling(), "    return 0\n", DOUBLES[0], "    return 0 * value\n") == [
        "pass",
        "fail",
        "pass",
    ]


def test_what_the_tests_said_before_changes_nothing(sandbox):
    task = doubling()
    group = [given(task, "    return 0\n", "fail"), given(task, "    return 0\n", "infrastructure"),
             given(task, DOUBLES[0], "pass", 1.0)]  # fmt: skip
    (labelled,) = by_majority([group], sandbox)
    assert [(a.verdict.outcome, a.verdict.score) for a in labelled] == [("pass", 1.0), ("pass", 1.0), ("fail", 0.0)]


def test_who_has_no_behaviour_counts_against_the_share_and_never_wins(sandbox):
    task = doubling()
    assert voted(sandbox, task, *DOUBLES[:2], *OTHERS[2:4]) == ["pass", "pass", "fail", "fail"]
    assert voted(sandbox, task, *DOUBLES[:2], *OTHERS[2:5]) == []
    assert voted(sandbox, task, *DOUBLES[:2], *OTHERS[2:5], quorum=0.4) == ["pass", "pass", "fail", "fail", "fail"]
    assert voted(sandbox, task, *OTHERS[2:]) == voted(sandbox, task, *[OTHERS[2]] * 5, quorum=0.0) == []
    assert by_majority([[], []], sandbox) == [[], []]


def test_two_parts_of_one_size_decide_nothing(sandbox):
    assert voted(sandbox, doubling(), *DOUBLES[:2], *["    return 0\n"] * 2) == []
    assert voted(sandbox, doubling(), *DOUBLES[:2], *["    return 0\n"] * 2, "    return 1\n", quorum=0.2) == []


def test_what_the_walls_could_not_run_counts_neither_way():
    class Torn(type(arithmetic.tasks("train", 1)[0])):
        def observe(self, completion, sandbox):
            if completion == "torn":
                raise NotJudged("the wall fell over")
            return super().observe(completion, sandbox)

    with Sandbox(workers=1) as sandbox:
        task = Torn("t", "1 + 1 =", "2")
        (group,) = by_majority([[given(task, text) for text in (" 2", "torn", "torn", "3", "2")]], sandbox, 0.6)
    assert outcomes([group]) == [["pass", "infrastructure", "infrastructure", "fail", "pass"]]
    assert group[1].verdict.detail == "the wall fell over" and not group[1].judged


def test_a_sandbox_that_fails_is_no_behaviour_of_a_program():
    sandbox = Sandbox(workers=1)
    with sandbox:
        worker = sandbox._free.get()
        worker.retire()
        sandbox._free.put(worker)
        with pytest.raises(NotJudged, match="closed"):
            doubling().behaviour(DOUBLES[0], sandbox)


def test_groups_are_labelled_in_their_order_whatever_the_number_of_workers():
    tasks = [doubling(str(number)) for number in range(5)]
    groups = [[given(task, text) for text in (*DOUBLES[: 1 + n % 3], OTHERS[0])] for n, task in enumerate(tasks)]
    labelled = []
    for workers in (1, 3):
        with Sandbox(workers=workers) as sandbox:
            labelled.append(by_majority(groups, sandbox))
    assert labelled[0] == labelled[1]
    assert [len(group) for group in labelled[0]] == [0, 3, 4, 0, 3]


@pytest.mark.parametrize("set_of_tasks", [arithmetic, expressions, prediction])
def test_answers_vote_by_the_line_that_is_judged(set_of_tasks):
    (task,) = set_of_tasks.tasks("train", 1)
    said = {text: task.behaviour(text, None) for text in (" 7\n", "7", "7  \nand more", "8", "", "\n7", "x" * 300_000)}
    assert [said[" 7\n"], said["7"], said["7  \nand more"]] == ["7"] * 3
    assert said["8"] == "8" and said[""] is said["\n7"] is said["x" * 300_000] is None


def test_word_problems_vote_by_the_number(tmp_path):
    (tmp_path / "g.jsonl").write_text('{"question": "How many?", "answer": "All.\\n#### 5"}')
    (task,) = gsm8k.tasks("train", 1, path=str(tmp_path / "g.jsonl"))
    texts = ("So.\n#### 1,040", "\\boxed{1040}", "Answer: 2080/2", "#### 5", "no idea", "#### 5 or 6", "####")
    assert [task.behaviour(text, None) for text in texts] == ["1040"] * 3 + ["5"] + [None] * 3


def test_tasks_that_are_judged_by_assertions_have_no_vote(tmp_path, sandbox):
    (tmp_path / "m.jsonl").write_text(
        '{"task_id": 601, "text": "One.", "code": "def f():\\n    return 1", "test_list": ["assert f() == 1"]}'
    )
    (task,) = mbpp.tasks("train", 1, path=str(tmp_path / "m.jsonl"))
    assert task.check(task.solution(), sandbox).outcome == "pass"
    assert voted(sandbox, task, *[task.solution()] * 3) == []


@pytest.mark.parametrize(
    "body",
    [
        "    return 10 ** 100_000\n",
        "    return [10 ** 5000] * 40\n",
        "    return range(10 ** 5000, 10 ** 5000 + 3)\n",
        "    return {value: {10 ** 5000}}.items()\n",
        "    return '\\ud800\\0' * 1000\n",
        "    x = ()\n    for _ in range(60):\n        x = (x, 1)\n    return x\n",
        "    return [[]] * 50_000\n",
    ],
)
def test_large_results_are_behaviours_of_a_fixed_size(body, sandbox):
    first, second = (doubling().behaviour(text, sandbox) for text in (body, f"    value = 0 + value\n{body}"))
    assert first == second and len(first) == 64


@pytest.mark.parametrize(
    "body",
    [
        "    return 10 ** 10_000_000\n",
        "    return 'x' * 2_000_000\n",
        "    x = []\n    x.append(x)\n    return x\n",
        "    return solve\n",
        "    while True: pass\n",
        "    import os\n    os._exit(0)\n",
        "    return value if value < 3 else 1 / 0\n",
    ],
)
def test_what_cannot_be_carried_or_ends_early_is_no_behaviour(body):
    with Sandbox(limits=Limits(seconds=1, cpu_seconds=1), workers=1) as sandbox:
        assert doubling().behaviour(body, sandbox) is None


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=4)
    | st.binary(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(
            st.booleans() | st.integers(-2, 2) | st.floats(-2, 2) | st.text(max_size=1), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@for_all(PLAIN, PLAIN)
@example(0.0, -0.0)
@example(True, 1)
@example(1.0, 1)
@example({1: 2, 3: 4}, {3: 4, 1: 2})
@example({True: 2}, {1: 2})
@example(["1"], ["1", ""])
@example([[1], []], [[1, []]])
@example({"a": 1, "b": 2}, {"a": "1,str('b'):2"})
def test_the_canonical_text_is_equal_exactly_for_what_a_check_takes_for_the_same(one, other):
    assert (canonical(one) == canonical(other)) == same(one, other)
    assert canonical(one) == canonical(one) and canonical(one).isascii()


def test_the_canonical_text_of_sets_has_no_order():
    words = [f"word {number}" for number in range(50)]
    backwards = words[::-1]
    assert canonical(set(words)) == canonical(set(backwards)) != canonical(frozenset(words))
    assert canonical({1}) != canonical({True})
