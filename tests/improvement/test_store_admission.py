"""Admission: only what passed, is new, leaks nothing and has room; and the draw of rows for training."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import ORIGIN, Given, row, tried

from eco.improvement.store.admission import admit
from eco.improvement.store.config import StoreConfig
from eco.improvement.store.contamination import Contamination
from eco.improvement.store.draw import training_rows
from eco.improvement.store.row import task_digest
from eco.sandbox import Sandbox

TASK = Given("set:1/a", "def solve(x):\n")
OTHER = Given("set:1/b", "def solve(x):\n    # the other one\n")


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def clean(sandbox):
    return Contamination([Given("Bench/1", "def secret(x):\n", "    return x ** 77\n")], [TASK, OTHER], sandbox)


@pytest.fixture
def admitted(sandbox, clean):
    def call(attempts, stored=(), **config):
        return admit(attempts, stored, ORIGIN, clean, sandbox, StoreConfig(**config))

    return call


def fates(found):
    return {name: count for name, count in found.funnel.items() if count}


def test_only_full_passes_are_admitted(admitted):
    outcomes = ("pass", "fail", "timeout", "memory", "crash", "tamper", "infrastructure")
    found = admitted([tried(TASK, f"    return x + {number}\n", kind) for number, kind in enumerate(outcomes)])
    assert [row.completion for row in found.rows] == ["    return x + 0\n"]
    assert fates(found) == {"drawn": 7, "judged": 6, "passed": 1, "admitted": 1}


def test_a_row_says_where_it_comes_from(admitted):
    (row,) = admitted([tried(TASK, "    return x\n")]).rows
    assert (row.task, row.prompt, row.completion) == ("set:1/a", TASK.prompt, "    return x\n")
    assert (row.source, row.tier, row.retry, row.round, row.outcome, row.score) == ("model", "A", 0, 1, "pass", 1.0)
    assert (row.sampling, row.model, row.tests) == (ORIGIN.sampling, ORIGIN.model, task_digest(TASK))
    assert task_digest(TASK) == task_digest(Given(*vars(TASK).values())) != task_digest(OTHER)


def test_one_program_counts_once_for_a_task_and_once_for_another(admitted):
    same = [
        "    y = x + 1\n    return y\n",
        "    y = x + 1\n    return y\n",
        "    z = x + 1  # renamed\n    return z\n",
    ]
    found = admitted([*(tried(TASK, text) for text in same), tried(TASK, "    y = x + 2\n    return y\n")])
    assert fates(found) == {"drawn": 4, "judged": 4, "passed": 4, "duplicate": 2, "admitted": 2}
    again = admitted([tried(task, same[2]) for task in (TASK, OTHER)], stored=found.rows)
    assert [row.task for row in again.rows] == ["set:1/b"]
    assert again.rows[0].id != found.rows[0].id


def test_near_duplicates_of_a_task_are_not_admitted_and_those_of_others_are(admitted):
    body = "".join(f"    v{number} = x * {number} + {number}\n" for number in range(30))
    changed = body.replace("v7 = x * 7", "v7 = x * 8")
    first = admitted([tried(TASK, f"{body}    return v29\n")])
    found = admitted([tried(task, f"{changed}    return v29\n") for task in (TASK, OTHER)], stored=first.rows)
    assert [row.task for row in found.rows] == ["set:1/b"]
    assert found.funnel["near_duplicate"] == 1
    short = admitted([tried(TASK, f"    return x + {number}\n") for number in range(3)])
    assert len(short.rows) == 3, "one constant is most of a short answer"
    assert len(admitted([tried(TASK, f"{changed}    return v29\n")], first.rows, near_duplicate=1.0).rows) == 1


def test_what_is_held_out_is_not_admitted(admitted):
    texts = [
        "    return x ** 77\n",
        "    return x ** 78\n",
        "    def secret(y):\n        return y\n    return secret(x)\n",
    ]
    found = admitted([tried(TASK, text) for text in texts])
    assert [row.completion for row in found.rows] == ["    return x ** 78\n"]
    assert found.funnel["contaminated"] == 2


def test_the_room_of_a_task_and_of_the_store(admitted):
    stored = [row(number, task) for number, task in enumerate(["set:1/a", "set:1/a", "set:1/b", "set:1/c"])]
    attempts = [tried(TASK, f"    return x - {number}\n") for number in range(5)]
    found = admitted(attempts, stored, per_task=3)
    assert [new.completion for new in found.rows] == [f"    return x - {number}\n" for number in range(3)]
    assert (found.funnel["over_cap"], found.removed) == (2, [stored[0].id, stored[1].id])
    found = admitted(attempts[:2], stored, per_task=3)
    assert (len(found.rows), found.removed) == (2, [stored[0].id])
    found = admitted(attempts[:2], stored, total=4)
    assert (len(found.rows), found.removed) == (2, [stored[0].id, stored[1].id])
    found = admitted(attempts, stored, total=2, per_task=9)
    assert (len(found.rows), found.removed) == (2, [one.id for one in stored])
    assert found.funnel["over_cap"] == 3


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_funnel_adds_up_and_caps_hold_whatever_comes(admitted_many, data):
    attempts, stored, per_task, total = admitted_many(data)
    found, kept = stored
    assert found.funnel["passed"] == sum(
        found.funnel[name] for name in ("duplicate", "near_duplicate", "contaminated", "over_cap", "admitted")
    )
    assert found.funnel["drawn"] == len(attempts) >= found.funnel["judged"] >= found.funnel["passed"]
    assert found.funnel["admitted"] == len(found.rows) and found.funnel["removed"] == len(found.removed)
    left = [one for one in kept if one.id not in found.removed] + found.rows
    assert len(left) <= total and max(Counter(one.task for one in left).values(), default=0) <= per_task
    assert len({one.id for one in left}) == len(left)


@pytest.fixture(scope="module")
def admitted_many(sandbox, clean):
    def call(data):
        draws = st.lists(
            st.tuples(
                st.sampled_from([TASK, OTHER]), st.integers(0, 9), st.sampled_from(["pass", "fail", "infrastructure"])
            )
        )
        attempts = [tried(task, f"    return x + {number}\n", kind) for task, number, kind in data.draw(draws)]
        per_task, total = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
        config = StoreConfig(per_task=per_task, total=total)
        earlier = data.draw(draws)
        first = admit(
            [tried(task, f"    return x + {number}\n", kind) for task, number, kind in earlier],
            [], ORIGIN, clean, sandbox, config,
        )  # fmt: skip
        found = admit(attempts, first.rows, ORIGIN, clean, sandbox, config)
        return attempts, (found, first.rows), per_task, total

    return call


def test_texts_that_are_no_python_are_compared_as_they_are(admitted):
    task = Given("sums:1/a", "Compute 1 + 1\nAnswer:")
    found = admitted([tried(task, text) for text in (" 2\n", " 2\n", " two\ud800\0\n")])
    assert fates(found) == {"drawn": 3, "judged": 3, "passed": 3, "duplicate": 1, "admitted": 2}


def test_rows_for_training_are_balanced_over_tasks_and_prefer_what_is_new():
    rows = [row(number, "set:1/many", round=4) for number in range(8)] + [row(9, "set:1/one", round=4)]
    drawn = Counter(one.task for one in training_rows(rows, 160, round=4, seed=0, half_life=2.0))
    assert drawn == {"set:1/many": 80, "set:1/one": 80}
    rows = [row(1, "set:1/old", round=0), row(2, "set:1/new", round=4)]
    drawn = Counter(one.task for one in training_rows(rows, 100, round=4, seed=0, half_life=2.0))
    assert drawn == {"set:1/old": 20, "set:1/new": 80}


def test_rows_for_training_repeat_by_seed_and_differ_by_round():
    rows = [row(number, f"set:1/{number}") for number in range(50)]

    def draw(count=20, **changed):
        return training_rows(rows, count, **{"round": 3, "seed": 1, "half_life": 2.0} | changed)

    assert draw() == draw()
    assert draw() != draw(round=4) != draw(seed=2, round=4)
    assert len({one.id for one in draw()}) == 20, "none comes twice while others have not come at all"
    assert set(Counter(one.id for one in draw(125)).values()) == {2, 3}
    assert [one.id for one in draw(50)] != [one.id for one in rows], "in random order"
    assert training_rows([], 10, round=1, seed=0, half_life=2.0) == []
