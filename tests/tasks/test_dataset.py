"""The cache of puzzles: made once, made again when anything that they are made from changes."""

import json

import numpy as np
import pytest

from eco.tasks.dataset import open_puzzles
from eco.tasks.puzzles import arc, sudoku


@pytest.fixture
def tasks(tmp_path):
    """A folder of four ARC tasks, a file for each."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for n in range(4):
        grids = generator.integers(10, size=(3, 2, 3, 3)).tolist()
        pairs = [{"input": one, "output": other} for one, other in grids]
        (folder / f"task{n}.json").write_text(json.dumps({"train": pairs[:2], "test": pairs[2:]}))
    return folder


def opened(tasks, cache):
    said: list[str] = []
    config = arc.Config(paths=(str(tasks),), size=4, held_out_puzzles=1)
    return open_puzzles(config, arc.build(config), cache, said.append), said


def test_puzzles_are_made_once(tmp_path):
    config = sudoku.Config(size=4, puzzles=5, held_out_puzzles=3)
    said: list[str] = []
    one, two = (open_puzzles(config, sudoku.build(config), tmp_path, said.append) for _ in range(2))
    assert one.content == two.content
    assert len(one.train.group_indices) == 6 and len(one.test.group_indices) == 4
    assert sum("puzzles made in" in line for line in said) == 1


def test_a_damaged_set_is_made_again(tmp_path, tasks):
    puzzles, _ = opened(tasks, tmp_path / "cache")
    labels = puzzles.train.labels.copy()
    (tmp_path / "cache" / f"puzzles-{puzzles.content}" / "train" / "all__labels.npy").write_bytes(b"no array")
    again, said = opened(tasks, tmp_path / "cache")
    assert any("puzzles made in" in line for line in said)
    assert (again.train.labels == labels).all()


def test_a_task_whose_file_was_renamed_goes_by_its_new_name(tmp_path, tasks):
    before, _ = opened(tasks, tmp_path / "cache")
    assert "task3" in before.train.identifiers
    (tasks / "task3.json").rename(tasks / "task9.json")
    after, _ = opened(tasks, tmp_path / "cache")
    assert "task9" in after.train.identifiers and "task3" not in after.train.identifiers
    assert after.content != before.content
