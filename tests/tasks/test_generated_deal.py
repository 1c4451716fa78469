"""What all generated families promise: the splits never meet, the seed decides all, and what is missing is said."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco.plugins import find

FAMILIES = ("arithmetic", "expressions", "prediction", "synthesis", "repair")
LEVELS = (1, 2, 3)


def _tasks(family, split, count, level=1, seed=0, path=None):
    return find("tasks.sets", family).tasks(split, count, level=level, seed=seed, path=path)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=5, deadline=None)
@given(seeds=st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)), level=st.sampled_from(LEVELS))
def test_no_seed_gives_a_held_out_task_to_train_on(family, seeds, level):
    train, held_out = (
        {task.prompt for task in _tasks(family, split, 40, level, seed)}
        for split, seed in zip(("train", "held_out"), seeds, strict=True)
    )
    assert len(train) == len(held_out) == 40
    assert not train & held_out


@pytest.mark.parametrize(("family", "level"), product(FAMILIES, LEVELS))
def test_the_seed_decides_all_and_more_tasks_are_the_same_ones_first(family, level):
    few, many = _tasks(family, "train", 5, level, seed=3), _tasks(family, "train", 15, level, seed=3)
    assert many[:5] == few
    assert len({task.name for task in many}) == len({task.prompt for task in many}) == 15
    assert _tasks(family, "train", 5, level, seed=4) != few


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_does_not_have_is_said(family):
    with pytest.raises(ValueError, match=r"has the levels 1 to \d+, not 0"):
        _tasks(family, "train", 1, 0)
    with pytest.raises(ValueError, match=r"not 99"):
        _tasks(family, "train", 1, 99)
    with pytest.raises(ValueError, match="at least one"):
        _tasks(family, "train", 0)
    with pytest.raises(ValueError, match="reads no file"):
        _tasks(family, "train", 1, path="here.jsonl")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_empty_completion_passes_nothing(family):
    for task in _tasks(family, "train", 20):
        for completion in ("", " ", "\n", "\t\n "):
            assert task.check(completion, None).outcome == "fail"
