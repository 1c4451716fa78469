"""What all generated families promise: the splits never meet, the seed decides all, and what is missing is said."""

import ast
import os
import re
import subprocess
import sys
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eco.plugins import find
from eco.tasks.generate.composition import written
from eco.tasks.generate.inputs import probes
from eco.tasks.generate.script import normal

FAMILIES = ("arithmetic", "expressions", "prediction", "synthesis", "repair")
LEVELS = (1, 2, 3)


def _tasks(family, split, count, level=1, seed=0, path=None):
    return find("tasks.sets", family).tasks(split, count, level=level, seed=seed, path=path)


def _asked(task):
    """What a task asks for, whatever its words: what its solution does, or what its program or expression is."""
    if hasattr(task, "signature"):
        names = {}
        exec(task.signature + task.solution(), names)
        kind = task.signature[len("def solve(") : -len("):\n")]
        return kind, repr([written(names["solve"](value)) for value in probes(kind)])
    program = task.prompt.removeprefix("Compute ").removesuffix("\nAnswer:").removesuffix("# Output:")
    names = dict.fromkeys(name for name in re.findall(r"\b[a-z]+\b(?! *\()", program) if name not in _PYTHON)
    for number, name in enumerate(names):
        program = re.sub(rf"\b{name}\b", f"v{number}", program)
    return normal(ast.parse(program))


_PYTHON = ("if", "else", "for", "in", "def", "return", "append", "upper", "count")


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=4, deadline=None)
@given(seeds=st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)), levels=st.tuples(*[st.sampled_from(LEVELS)] * 2))
@example(seeds=(0, 1), levels=(1, 1))
def test_no_seed_and_no_level_gives_a_held_out_task_to_train_on(family, seeds, levels):
    train = {_asked(task) for task in _tasks(family, "train", 150, levels[0], seeds[0])}
    held_out = {_asked(task) for task in _tasks(family, "held_out", 30, levels[1], seeds[1])}
    assert len(train) > 50 and len(held_out) > 15
    assert not train & held_out


def test_what_is_held_out_of_synthesis_is_held_out_of_repair():
    trained = {_asked(task) for task in _tasks("repair", "train", 400)}
    assert not trained & {_asked(task) for task in _tasks("synthesis", "held_out", 200)}
    assert trained & {_asked(task) for task in _tasks("synthesis", "train", 1000)}


def test_another_process_makes_the_same_tasks():
    code = (
        "from eco.plugins import find\n"
        f"for family in {FAMILIES}:\n"
        "    for task in find('tasks.sets', family).tasks('train', 3, level=2):\n"
        "        print(repr((task.name, task.prompt, task.solution())))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    here = [(t.name, t.prompt, t.solution()) for family in FAMILIES for t in _tasks(family, "train", 3, 2)]
    assert said.stdout.splitlines() == [repr(told) for told in here]


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
