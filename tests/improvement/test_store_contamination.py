"""Decontamination: what is held out is found in every disguise, and training tasks are left alone."""

from pathlib import Path

import pytest
from stored import Given, renamed

from eco.improvement.store.contamination import Contamination
from eco.improvement.store.shapes import shapes
from eco.sandbox import Sandbox
from eco.tasks.sets import open_tasks, synthesis

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=2) as opened:
        yield opened


@pytest.fixture(scope="module")
def training():
    return synthesis.tasks("train", 1000, level=2)


@pytest.fixture(scope="module")
def held_out():
    return synthesis.tasks("held_out", 100, level=2)


@pytest.fixture(scope="module")
def contamination(training, held_out, sandbox):
    return Contamination(held_out, training, sandbox)


def found(contamination, texts, sandbox):
    return [(text, shape) in contamination for text, shape in zip(texts, shapes(texts, sandbox), strict=True)]


def documents(tasks):
    return [task.prompt + task.solution() for task in tasks]


def disguised(task):
    """Its solution with every variable and the function renamed and no docstring, after a function of another kind."""
    return f"def other(a):\n    return a\n\n\n{renamed(task.prompt + task.solution())}"


def test_training_tasks_are_left_alone(contamination, training, sandbox):
    assert sum(found(contamination, documents(training), sandbox)) == 0


def test_held_out_tasks_are_found(contamination, held_out, sandbox):
    assert all(found(contamination, documents(held_out), sandbox))


def test_solutions_with_other_names_are_found(contamination, held_out, sandbox):
    texts = [disguised(task) for task in held_out]
    assert sum(found(contamination, texts, sandbox)) == 100
    assert sum((text, ()) in contamination for text in texts) < 100, "the shapes find what the words do not"


def test_few_correct_programs_that_nobody_has_seen_are_taken_for_held_out_ones(contamination, sandbox):
    """Solutions of tasks outside of the training tasks: an upper bound, as a row answers one of these."""
    others = synthesis.tasks("train", 1500, level=2)[1000:]
    answers = [task.signature + task.solution() for task in others]
    assert sum(found(contamination, answers, sandbox)) <= 0.05 * 500


def test_words_of_a_prompt_are_found_wherever_they_stand(contamination, held_out, training):
    task = held_out[0]
    sentence = " ".join(task.prompt.partition(">>>")[0].split()[2:])
    leak = f"{training[0].prompt}    # {sentence}\n{training[0].solution()}"
    assert (leak, ()) in contamination
    assert (f"{training[0].prompt}    # Return the result.\n{training[0].solution()}", ()) not in contamination


def test_names_of_functions_betray_a_task_unless_training_tasks_have_them_too(sandbox):
    names = ("solve", "rare", "twice", "once")
    held_out = [Given(f"Bench/{name}", f"def {name}(x):\n", "    return x\n") for name in names]
    training = [Given(f"made:1/{number}", "def solve(a):\n", f"    return {number}\n") for number in range(5)]
    training += [Given(f"made:1/t{number}", "def twice(a):\n", f"    return -{number}\n") for number in range(2)]
    training += [Given("made:1/o", "def once(a):\n", "    return 'a'\n")]
    contamination = Contamination(held_out, training, sandbox)
    assert [(f"def {name}(z): return z + 7", ()) in contamination for name in names] == [False, True, False, True]
    own = Contamination([Given("made:2/h", "def once(x):\n", "    return x\n")], training, sandbox)
    assert ("def once(z): return z + 7", ()) not in own, "a family's split keeps its tasks apart"


def test_short_answers_are_compared_as_a_whole(sandbox):
    held_out, training = (open_tasks("arithmetic:2", split, 100) for split in ("held_out", "train"))
    contamination = Contamination(held_out, training, sandbox)
    assert all((text, ()) in contamination for text in documents(held_out))
    assert not any((text, ()) in contamination for text in documents(training))


def test_lists_of_numbers_are_nothing_to_recognise_a_task_by(sandbox):
    held_out = [
        Given(
            "Bench/1", "x = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\n", "print('the first numbers that there are, in order')\n"
        )
    ]
    contamination = Contamination(held_out, [], sandbox)
    assert ("y = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]", ()) not in contamination
    assert ("# The first numbers that there are, in ORDER.", ()) in contamination


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the published files")
def test_published_benchmarks_beside_generated_and_published_training_tasks(training, sandbox):
    humaneval = open_tasks(f"humaneval@{SHARED}/humaneval/humaneval_first82.jsonl", "held_out", 1000)
    mbpp = f"mbpp@{SHARED}/mbpp/mbpp_prompt_val_train.jsonl"
    held_out, published = humaneval + open_tasks(mbpp, "held_out", 1000), open_tasks(mbpp, "train", 1000)
    contamination = Contamination(held_out, training + published, sandbox)
    assert all(found(contamination, documents(held_out), sandbox))
    assert sum(found(contamination, [disguised(task) for task in humaneval], sandbox)) == 82
    assert sum(found(contamination, documents(training), sandbox)) == 0
    told = dict(
        zip([task.name for task in published], found(contamination, documents(published), sandbox), strict=True)
    )
    assert sum(told.values()) <= 4
    assert told["MBPP/626"], "a function of its name is asked for in HumanEval"
