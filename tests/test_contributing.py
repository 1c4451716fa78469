"""The worked examples of CONTRIBUTING.md, trained as they stand there."""

import importlib
import re
from pathlib import Path

import pytest

import eco as package
from eco.sandbox import Sandbox
from eco.tasks.sets import open_tasks

PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"
BLOCKS = dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL))


@pytest.fixture
def as_shipped(tmp_path, monkeypatch):
    """Puts the examples into their rooms for the time of a test."""
    for name, text in BLOCKS.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if file.suffix == ".py":
            room = importlib.import_module(str(Path(name).parent).replace("/", "."))
            monkeypatch.setattr(room, "__path__", [*room.__path__, str(file.parent)])


SMALL = {
    "train.steps": 8,
    "train.eval_every": 0,
    "train.batch_size": 4,
    "tokenizer.vocab_size": 300,
    "prompts": ["1 + "],
}


def test_there_are_six_blocks():
    assert sorted(BLOCKS) == [
        "bigram.yaml",
        "eco/data/sources/sums.py",
        "eco/models/bigram.py",
        "eco/optim/momentum.py",
        "eco/tasks/puzzles/mirror.py",
        "eco/tasks/sets/backwards.py",
    ]


@pytest.mark.usefixtures("as_shipped")
def test_the_architecture_and_the_source_train_and_generate(tmp_path):
    settings = SMALL | {"data.paths": ["sums:60"], "output_dir": str(tmp_path / "run"), "model.context": 32}
    result = package.train(str(tmp_path / "bigram.yaml"), settings)
    assert result.after["val_loss"] < result.before["val_loss"]
    assert package.load(tmp_path / "run").generate("1 + ", max_new_tokens=4)
    with pytest.raises(ValueError, match="write sums:1000"):
        package.train(str(tmp_path / "bigram.yaml"), settings | {"data.paths": ["sums:x"], "resume": False})


@pytest.mark.usefixtures("as_shipped")
def test_the_optimizer_trains(tiny, tmp_path):
    settings = {"optimizer.name": "momentum", "optimizer.lr": 0.5, "optimizer.momentum": 0.5}
    result = package.train(tiny, settings | {"output_dir": str(tmp_path / "run")})
    assert result.after["val_loss"] < result.before["val_loss"]


@pytest.mark.usefixtures("as_shipped")
def test_the_puzzle_is_learnt_and_solved(tmp_path):
    puzzles = {"data.puzzle": "mirror", "data.length": 4, "data.puzzles": 1000, "data.held_out_puzzles": 50}
    quick = {"train.steps": 150, "train.warmup": 0, "optimizer.lr": 0.003, "train.batch_size": 32, "model.width": 64}
    quick |= {"model.mixer": "mlp", "model.position": "none"}
    result = package.train("trm-sudoku4", puzzles | quick | {"output_dir": str(tmp_path / "run")})
    assert result.after["val_cell_accuracy"] > 0.5 > 0.2 > result.before["val_cell_accuracy"]
    (answer,) = package.load(tmp_path / "run").solve("3141")
    assert answer.question.inputs.tolist() == [4, 2, 5, 2]
    with pytest.raises(ValueError, match="line 1: '31415' is not 4 digits"):
        package.load(tmp_path / "run").solve("31415")


@pytest.mark.usefixtures("as_shipped")
def test_the_tasks_know_their_solutions_and_keep_their_splits_apart():
    with Sandbox("weak") as sandbox:
        train, held_out = (open_tasks("backwards:2", split, 40) for split in ("train", "held_out"))
        assert all(task.check(task.solution(), sandbox).outcome == "pass" for task in train)
        assert {task.check(" xyz", sandbox).outcome for task in train} == {"fail"}
    assert not {task.prompt for task in train} & {task.prompt for task in held_out}
