"""ARC as a family of puzzles: the splits, the copies, what an answer is worth, and what malformed tasks are told."""

import json
from pathlib import Path

import numpy as np
import pytest

from eco.tasks.puzzles.arc import Config, build
from eco.tasks.puzzles.grids.arc_canvas import crop
from eco.tasks.puzzles.grids.arc_variants import canonical

PUBLISHED = Path(__file__).parents[3] / "shared/data/arc/arc_agi_1_training.json"


def random_tasks(count, seed=0, sides=(2, 7)):
    """Tasks of random grids: id -> the published form."""
    generator = np.random.default_rng(seed)

    def pair():
        grids = [generator.integers(0, 10, generator.integers(*sides, size=2)).tolist() for _ in range(2)]
        return {"input": grids[0], "output": grids[1]}

    return {f"task{n}": {"train": [pair() for _ in range(3)], "test": [pair() for _ in range(2)]} for n in range(count)}


@pytest.fixture
def arc(tmp_path):
    """Builds the family on tasks written to a file; further keywords are settings."""

    def make(tasks, **settings):
        path = tmp_path / "tasks.json"
        path.write_text(json.dumps(tasks))
        return build(Config(**{"paths": (str(path),), "size": 8, "held_out_puzzles": 2, **settings}))

    return make


def pairs_of(task, group):
    """Every (input, output) of a group as colours, found by plain search, variant by variant."""

    def find(tokens):
        rows, columns = np.nonzero(tokens.reshape(task.shape) >= 2)
        box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        return tokens.reshape(task.shape)[box] - 2

    return [
        [(find(i), find(o)) for i, o in zip(*both, strict=True)]
        for both in zip(group.inputs, group.labels, strict=True)
    ]


def test_what_is_shown_is_trained_on_and_what_is_asked_is_held_out(arc):
    tasks = random_tasks(6)
    task = arc(tasks, translate=False)
    train, test = (list(task.groups(split)) for split in ("train", "test"))
    assert sorted(group.names[0] for group in train) == sorted(tasks)
    evaluated = {group.names[0] for group in test}
    assert len(evaluated) == 2
    for group, split in [(group, "train") for group in train] + [(group, "test") for group in test]:
        known = tasks[group.names[0]]
        trained = known["train"] if group.names[0] in evaluated else known["train"] + known["test"]
        wanted = trained if split == "train" else known["test"]
        for (before, after), pair in zip(pairs_of(task, group)[0], wanted, strict=True):
            assert before.tolist() == pair["input"] and after.tolist() == pair["output"]


def test_copies_bear_the_names_by_which_they_are_undone(arc):
    task = arc(random_tasks(5), augmentations=20)
    bases = {}
    for group in task.groups("test"):
        base, *copies = pairs_of(task, group)
        bases[group.names[0]] = group.names
        assert len(copies) == 20 and len(set(group.names)) == 21
        for name, label in zip(group.names, group.labels, strict=True):
            for number, (_, answer) in enumerate(base):
                original, grid = task.original(name, label[number])
                assert original == group.names[0]
                assert np.array_equal(grid, answer)
    trained = {group.names[0]: group.names for group in task.groups("train")}
    assert bases.items() <= trained.items()


def test_training_copies_are_moved_except_for_one_pair_each(arc):
    task = arc(random_tasks(4, sides=(2, 4)), augmentations=10)
    still = [corner == (0, 0) for group in task.groups("train") for corner in corners(task, group.inputs)]
    groups = list(task.groups("train"))
    for group in groups:
        at_home = np.array([[corner == (0, 0) for corner in corners(task, variant)] for variant in group.inputs])
        assert at_home.any(axis=1).all()
        assert [corners(task, v) for v in group.inputs] == [corners(task, v) for v in group.labels]
    assert 0 < np.mean(still) < 0.6
    assert all(corner == (0, 0) for group in task.groups("test") for v in group.inputs for corner in corners(task, v))


def test_every_place_with_room_is_used(arc):
    grid = [[1, 2], [3, 4]]
    other = [[5, 6, 7]]
    tasks = {
        name: {"train": [{"input": grid, "output": other}] * 3, "test": [{"input": grid, "output": grid}]}
        for name in "ab"
    }
    task = arc(tasks, size=4, held_out_puzzles=1, augmentations=200)
    group = next(task.groups("train"))
    upright = [number for number, name in enumerate(group.names) if name.split("|||")[1:2] in ([], ["t0"])]
    places = {corner for number in upright for corner in corners(task, group.inputs[number])}
    assert places == {(r, c) for r in range(3) for c in range(2)}  # the output is three cells wide


def corners(task, canvases):
    coloured = canvases.reshape(-1, *task.shape) >= 2
    return [(int(np.nonzero(c)[0].min()), int(np.nonzero(c)[1].min())) for c in coloured]


def test_everything_depends_on_the_settings_alone(arc):
    tasks = random_tasks(6)
    one, other = (list(arc(t, augmentations=5).groups("train")) for t in (tasks, dict(reversed(tasks.items()))))
    for a, b in zip(one, other, strict=True):
        assert a.names == b.names and np.array_equal(a.inputs, b.inputs) and np.array_equal(a.labels, b.labels)
    seeded = list(arc(tasks, augmentations=5, seed=1).groups("train"))
    assert [g.names for g in seeded] != [g.names for g in one]


def test_symmetric_tasks_have_as_many_copies_as_differ(arc):
    grid = [[3, 3], [3, 3]]
    plain = {"train": [{"input": grid, "output": grid}] * 2, "test": [{"input": grid, "output": [[1, 2]]}]}
    task = arc({"plain": plain}, augmentations=50, held_out_puzzles=1)
    (group,) = task.groups("train")
    assert len(group.names) == 9  # one for each colour
    assert [held_out.names for held_out in task.groups("test")] == [group.names]
    mirrored = [{"input": grid, "output": [[3]]} for grid in ([[3, 0]], [[0, 3]])]
    task = arc({"plain": {**plain, "train": mirrored}}, augmentations=50, held_out_puzzles=1)
    assert len(next(task.groups("train")).names) == 18  # upright or lying; which pair is mirrored makes no difference


def test_a_task_that_shows_what_another_asks_for_is_in_no_split(arc):
    tasks = random_tasks(6)
    evaluated = next(arc(tasks).groups("test")).names[0]
    asked = tasks[evaluated]["test"][0]
    recoloured = {side: [[c and c % 9 + 1 for c in row[::-1]] for row in grid] for side, grid in asked.items()}
    copy = {"train": [{"input": [[1]], "output": [[2]]}], "test": [recoloured]}
    before = {group.names[0] for group in arc(tasks).groups("train")}
    for name in ("a", "b", "c", "d", "e"):  # one of them comes after the held-out tasks in the order of hashes
        task = arc({**tasks, name: copy}, augmentations=0)
        if evaluated in {g.names[0] for g in task.groups("test")} and name not in {
            g.names[0] for g in task.groups("test")
        }:
            assert {g.names[0] for g in task.groups("train")} == before
            assert task.left_out["tasks with a pair that an evaluated task asks for"] == 1
            return
    pytest.fail("no name came after the held-out tasks")


def test_a_pair_that_a_task_both_shows_and_asks_for_is_not_trained_on(arc):
    tasks = random_tasks(3)
    shown = tasks["task0"]["train"]
    turned = {side: np.rot90(grid).tolist() for side, grid in shown[1].items()}
    tasks["task0"]["test"] = [turned]
    task = arc(tasks, held_out_puzzles=3, translate=False)
    trained = {group.names[0]: pairs_of(task, group)[0] for group in task.groups("train")}
    assert [before.tolist() for before, _ in trained["task0"]] == [shown[0]["input"], shown[2]["input"]]
    assert task.left_out["shown pairs that are asked for"] == 1
    tasks["task0"]["train"] = [shown[1]]
    task = arc(tasks, held_out_puzzles=3)
    assert {group.names[0] for group in task.groups("test")} == {"task1", "task2"}
    assert task.left_out["evaluated tasks that show nothing but what is asked for"] == 1


def test_tasks_with_larger_grids_are_left_out_and_counted(arc):
    tasks = random_tasks(5)
    tasks["task0"]["test"][0]["output"] = [[1] * 9]
    task = arc(tasks)
    assert "task0" not in {group.names[0] for group in task.groups("train")}
    assert task.left_out["tasks with a grid larger than 8 x 8"] == 1
    with pytest.raises(ValueError, match=r"data.held_out_puzzles is 5, but data.paths has 4 tasks"):
        next(arc(tasks, held_out_puzzles=5).groups("test"))


def test_evaluated_tasks_may_come_from_files_of_their_own(arc, tmp_path):
    folder = tmp_path / "evaluation"
    folder.mkdir()
    apart = random_tasks(3, seed=1)
    for number, task in enumerate(apart.values()):
        (folder / f"own{number}.json").write_text(json.dumps(task))
    task = arc(random_tasks(4), evaluated=(str(folder),), held_out_puzzles=3, puzzles=2)
    assert {group.names[0] for group in task.groups("test")} == {"own0", "own1", "own2"}
    assert len(list(task.groups("train"))) == 2 + 3


def test_of_tasks_with_one_id_the_first_counts(arc, tmp_path):
    again = random_tasks(3, seed=1)
    (tmp_path / "again.json").write_text(json.dumps(again))
    tasks = random_tasks(3)
    task = arc(tasks)
    both = build(task.config.model_copy(update={"paths": (*task.config.paths, str(tmp_path / "again.json"))}))
    for one, other in zip(task.groups("train"), both.groups("train"), strict=True):
        assert one.names == other.names and np.array_equal(one.inputs, other.inputs)


@pytest.mark.parametrize("name", ["arc.json", "arc_challenges.json"])
@pytest.mark.parametrize("content", [b"\xff\xfe", b"{"])
def test_a_file_that_is_no_json_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "arc_solutions.json").write_text("{}")
    with pytest.raises(ValueError, match=f"{name}: not JSON"):
        next(build(Config(paths=(str(tmp_path / name),))).groups("test"))


def test_solutions_lie_beside_the_challenges(tmp_path):
    tasks = random_tasks(2)
    solutions = {name: [pair.pop("output") for pair in task["test"]] for name, task in tasks.items()}
    challenges = tmp_path / "arc_challenges.json"
    challenges.write_text(json.dumps(tasks))
    task = build(Config(paths=(str(challenges),), size=8, held_out_puzzles=2))
    with pytest.raises(ValueError, match=r"task task0: a test input has no output.*solutions"):
        next(task.groups("test"))
    (tmp_path / "arc_solutions.json").write_text(json.dumps(solutions))
    groups = list(build(task.config).groups("test"))
    answers = {group.names[0]: [crop(label.reshape(8, 8)).tolist() for label in group.labels[0]] for group in groups}
    assert answers == solutions
    (tmp_path / "arc_solutions.json").write_text(json.dumps({"task0": []}))
    with pytest.raises(ValueError, match=r"arc_solutions.json: does not fit arc_challenges.json"):
        next(build(task.config).groups("test"))


def test_an_answer_is_right_if_its_grid_is(arc):
    task = arc(random_tasks(5))
    for group in (*task.groups("test"), *task.groups("train")):
        for inputs, label in zip(group.inputs[0], group.labels[0], strict=True):
            assert task.check(inputs, label, label).outcome == "pass"
            assert task.check(inputs, label).outcome == "pass"
            beyond = np.where(label == 0, 5, label).astype(np.uint8)  # what is not asked for
            assert task.check(inputs, beyond, label).outcome == "pass"
            wrong = np.where(label >= 2, (label - 1) % 10 + 2, label).astype(np.uint8)
            verdict = task.check(inputs, wrong, label)
            assert verdict.outcome == "fail" and verdict.score == 0 and "cells are wrong" in verdict.detail
            assert task.check(inputs, np.zeros_like(label), label).outcome == "fail"


def test_the_verdict_says_what_is_wrong(arc):
    task = arc(random_tasks(3))
    (question,) = task.parse(json.dumps({"train": [{"input": [[1]], "output": [[1]]}], "test": [{"input": [[1, 2]]}]}))
    label, other = (
        task.parse(json.dumps({"train": [{"input": [[1]], "output": [[1]]}], "test": [{"input": grid}]}))[0].inputs
        for grid in ([[1, 2], [3, 4]], [[1, 2], [3, 5]])
    )
    assert task.check(question.inputs, other, label).score == 0.75
    assert "the answer is 1 x 2, the right one 2 x 2" in task.check(question.inputs, question.inputs, label).detail
    broken = label.copy()
    broken[2] = 3
    assert "edge is broken" in task.check(question.inputs, broken).detail


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"not JSON: .*line 1"),
        ("[]", r"not an ARC task"),
        ('{"train": [{"input": [[1]], "output": [[1]]}], "test": []}', r'no pairs under "test"'),
        ('{"abc": {"test": [{"input": [[1]]}]}}', r'task abc: no pairs under "train"'),
        ('{"train": [{"input": [[1]]}], "test": [{"input": [[1]]}]}', r"train pair 1: no output"),
        ('{"train": [{"input": [[1]], "output": [[1]]}], "test": [{}]}', r"test pair 1: no input"),
        (
            '{"train": [{"input": [[1]], "output": [[1]]}], "test": [{"input": [[1, 2], [1, "x"]]}]}',
            r'test pair 1: input: row 2, column 2: "x" is no colour',
        ),
        (
            '{"train": [{"input": [[1]], "output": [[10]]}], "test": [{"input": [[1]]}]}',
            r"train pair 1: output: row 1, column 1: 10 is no colour",
        ),
        ('{"train": [{"input": [[true]], "output": [[1]]}], "test": [{"input": [[1]]}]}', r"true is no colour"),
        ('{"train": [{"input": [[1], [1, 2]], "output": [[1]]}], "test": []}', r"row 2 has 2 cells, the first has 1"),
        ('{"train": [{"input": [], "output": [[1]]}], "test": []}', r"a grid is a list of rows"),
        (
            json.dumps({"train": [{"input": [[1]], "output": [[1]]}], "test": [{"input": [[1] * 9]}]}),
            r"test pair 1: the input is 1 x 9, the largest grid of this model 8 x 8",
        ),
    ],
)
def test_malformed_tasks_are_told_where(arc, text, message):
    with pytest.raises(ValueError, match=message):
        arc(random_tasks(3)).parse(text)


def test_a_question_has_the_name_that_the_text_gives(arc):
    task = arc(random_tasks(3))
    tasks = random_tasks(2, seed=3)
    questions = task.parse(json.dumps(tasks))
    assert [question.name for question in questions] == ["task0", "task0", "task1", "task1"]
    shown = [[int(cell.text) for cell in row] for row in task.cells(questions[1].inputs)]
    assert shown == tasks["task0"]["test"][1]["input"]
    assert [question.name for question in task.parse(json.dumps(tasks["task0"]))] == ["", ""]


def test_paths_that_hold_no_tasks(arc, tmp_path):
    for paths, message in (((), "data.paths is empty"), ((str(tmp_path / "no"),), "no such file or folder")):
        with pytest.raises(ValueError, match=message):
            next(build(Config(paths=paths)).groups("train"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no .json file"):
        next(build(Config(paths=(str(tmp_path / "empty"),))).groups("train"))


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published ARC tasks are not beside the repository")
def test_the_published_tasks_are_read_and_split():
    task = build(Config(paths=(str(PUBLISHED),), size=10, held_out_puzzles=40, augmentations=2))
    test = list(task.groups("test"))
    train = list(task.groups("train"))
    assert len(test) == 39 and len(train) == 177
    assert task.left_out == {
        "tasks with a grid larger than 10 x 10": 222,
        "tasks with a pair that an evaluated task asks for": 0,
        "evaluated tasks that show nothing but what is asked for": 1,
        "shown pairs that are asked for": 4,
    }
    for split, groups in (("train", train), ("test", test)):
        assert all(len(group.names) == 3 for group in groups), split
    trained = {canonical(*pair) for group in train for pair in pairs_of(task, group)[0]}
    assert not any(canonical(*pair) in trained for group in test for pair in pairs_of(task, group)[0])


def test_a_lone_task_takes_the_name_it_is_given():
    text = '{"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3]]}]}'
    assert [question.name for question in build(Config(size=3)).parse(text, "007bbfb7")] == ["007bbfb7"]
