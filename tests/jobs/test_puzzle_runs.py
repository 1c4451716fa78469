"""Runs that train on puzzles: samples that are carried on, exact resume, the figures of `eco eval`, wrong settings."""

import json
import shutil

import numpy as np
import pytest
from small_run import SMALL_PUZZLES, read_rows
from test_resume import STEPS, assert_equal_runs, flags, start_and_kill

import eco as package

SMALL_ARC = """
model: {family: trm, width: 32, heads: 2, prefix: 1, layers: 1, cycles: 1, inner_cycles: 1, max_steps: 2}
data: {puzzle: arc, size: 4, held_out_puzzles: 2, paths: [tasks]}
optimizer: {name: adam_atan2}
train: {steps: 2, batch_size: 4, precision: fp32}
"""

HARD = {  # rows halt at different steps, in micro-batches, with everything that carries state
    "train.steps": STEPS,
    "train.batch_size": 8,
    "train.accumulation": 2,
    "train.ema_decay": 0.9,
    "model.halt_bias": 3.0,
    "model.exploration": 0.5,
    "data.augmentations": 3,
    "checkpoint.every": 5,
    "train.eval_every": 6,
}


@pytest.fixture
def puzzles(tmp_path):
    """The path of a recipe whose run takes a few seconds."""
    path = tmp_path / "puzzles.yaml"
    path.write_text(SMALL_PUZZLES)
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("puzzles")
    (folder / "puzzles.yaml").write_text(SMALL_PUZZLES)
    package.train(str(folder / "puzzles.yaml"), HARD | {"output_dir": str(folder / "run")})
    return folder / "run"


def test_rows_halt_at_different_steps_and_only_they_are_refilled(run):
    rows = read_rows(run)[1:]
    shares = [row["halted_share"] for row in rows]
    assert 0 < min(shares) < max(shares)
    state = json.loads((run / "checkpoints" / f"step_{STEPS:08d}" / "state.json").read_text())
    assert state["trainer"]["position"] < 16 * STEPS, "every row got a fresh sample at every step"


def test_a_step_may_take_more_samples_than_an_epoch_has(puzzles, tmp_path):
    package.train(puzzles, {"train.steps": 2, "train.batch_size": 90, "output_dir": str(tmp_path / "run")})
    assert [row["step"] for row in read_rows(tmp_path / "run")] == [0, 1, 2]


def test_a_killed_run_goes_on_bit_identically(eco, puzzles, tmp_path, run):
    again = tmp_path / "run"
    words = ["train", puzzles, *flags(HARD), "--output-dir", "run"]
    start_and_kill(eco, words, again)
    resumed = eco(*words, "--num-workers", "3")
    assert resumed.returncode == 0, resumed.stderr
    assert read_rows(again)[-1]["checkpoint_resume_step"] >= 5
    assert_equal_runs(run, again)


def test_eval_reports_accuracy_with_its_interval_by_step_and_by_paths(eco, run):
    words = ("eval", run, "--checkpoint", "last", "--latent-num-paths", "3", "--latent-planning-depth", "2", "--json")
    done = eco(*words)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["step"] == STEPS and report["puzzles"] == 10
    assert report["exact_accuracy_low"] <= report["exact_accuracy"] <= report["exact_accuracy_high"]
    assert len(report["accuracy_by_step"]) == 4
    assert report["accuracy_by_step"][-1] == report["exact_accuracy"]
    assert list(report["accuracy_by_paths"]) == ["1", "2", "3"]
    assert report["accuracy_by_paths"]["1"] == report["exact_accuracy"]
    assert "exact accuracy" in eco("eval", run).stdout


def test_eval_agrees_with_the_last_measure_of_the_training(run):
    report = package.evaluate(run, "last")
    last = read_rows(run)[-1]
    assert report["exact_accuracy"] == pytest.approx(last["val_exact_accuracy"])
    assert report["loss"] == pytest.approx(last["val_loss"], rel=1e-5)


def test_a_trained_solver_solves_from_python(run):
    trained = package.load(run)
    (answer,) = trained.solve("1..4\n.41.\n214.\n4..1")
    assert answer.grid.shape == (16,)


def test_a_run_on_arc_knows_its_tasks_by_name_and_eval_refuses_others(eco, tmp_path):
    generator = np.random.default_rng(0)

    def add(*names):
        for name in names:
            grids = generator.integers(10, size=(3, 2, 3, 3)).tolist()
            pairs = [{"input": one, "output": other} for one, other in grids]
            (tmp_path / "tasks" / f"{name}.json").write_text(json.dumps({"train": pairs[:2], "test": pairs[2:]}))

    (tmp_path / "tasks").mkdir()
    add("a", "b", "c", "d")
    (tmp_path / "arc.yaml").write_text(SMALL_ARC)
    assert eco("train", "arc.yaml", "--output-dir", "run").returncode == 0
    assert eco("eval", "run").returncode == 0
    tasks = [json.loads((tmp_path / "tasks" / f"{name}.json").read_text()) for name in "ab"]
    (tmp_path / "two.json").write_text(json.dumps(dict(zip("ax", tasks, strict=True))))
    solved = eco("solve", "run", "--puzzle", "two.json").stdout
    assert solved.count("it can only guess") == 1 and "'x'" in solved and "of 2\n" not in solved
    add("e", "f", "g")
    done = eco("eval", "run")
    assert done.returncode == 1 and "have changed since" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.family": "decoder"}, "decoder is a language model|does not learn puzzles"),
        ({"prompts": ["x"]}, "prompts is for language models"),
        ({"model.length": 9}, "model.length is 9, but the puzzles have 16"),
        ({"optimizer.name": "adamw"}, "adam_atan2"),
        ({"data.puzzle": "sudoko"}, "did you mean 'sudoku'"),
        ({"data.size": 5}, "data.size"),
        ({"data.puzzles": 100_000}, "4x4 Sudokus are wanted"),
        ({"model.mixer": "mlp"}, "rope"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(puzzles, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        package.train(puzzles, {"output_dir": str(tmp_path / "run"), **settings})


def test_a_model_of_puzzles_on_text_is_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match="trm is not a language model; name its puzzles"):
        package.train(
            tiny, {"output_dir": str(tmp_path / "run"), "model.family": "trm", "optimizer.name": "adam_atan2"}
        )


@pytest.mark.parametrize(("command", "message"), [("generate", "eco solve"), ("solve", "eco generate")])
def test_commands_of_the_other_kind_say_which_one_fits(eco, run, tiny, tmp_path, command, message):
    other = run
    if command == "solve":
        package.train(tiny, {"output_dir": str(tmp_path / "text"), "train.steps": 2})
        other = tmp_path / "text"
    words = ["--prompt", "x"] if command == "generate" else ["--puzzle", tiny]
    done = eco(command, other, *words)
    assert done.returncode == 1 and message in done.stderr


def test_other_names_in_the_puzzle_table_are_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "identifiers.json").write_text('["<blank>", "another"]')
    with pytest.raises(ValueError, match=r"the list of names in the puzzle table is .*\(1 names\).* and .*\(2 names\)"):
        package.load(tmp_path / "run")
