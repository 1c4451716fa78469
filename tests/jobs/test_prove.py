"""`eco prove`: what a feature brings, that it acts while it is on, and that off is as if it had never been."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_run import read_rows

import eco as package
from eco import recipe as recipes
from eco.cli import main
from eco.flags import from_mapping
from eco.jobs import arm, prove
from eco.jobs.features import Feature, features_of, find, table
from eco.jobs.proofs import Proof, Report
from eco.plugins import find as find_plugin

STEPS = from_mapping({"train.steps": 4, "train.warmup": 0})
IDLE = Feature(
    name="idle", what="Sampling, which training does not see.", on={"sampling.top_k": 3}, off={"sampling.top_k": 9}
)


@pytest.fixture
def inside(monkeypatch):
    """Runs arms in this process, without pictures, which is ten times as fast; returns the tasks so far."""
    tasks = []

    def run(task, log):
        tasks.append(task)
        try:
            arm._train(task)
        except Exception as error:
            raise ValueError(f"failed: {error}") from error

    monkeypatch.setattr(prove, "_in_a_process", run)
    monkeypatch.setattr("eco.jobs.train.plot_run", lambda path: [])
    return tasks


def trial(recipe, feature, folder, flags=STEPS):
    return prove._Trial(recipe, flags, feature, folder, lambda text: None)


def average(**changed):
    return table()["ema"].model_copy(update=changed)


def test_the_command_proves_what_acts_and_not_what_does_nothing(tiny, tmp_path, inside, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prove, "features_of", lambda family: [table()["ema"], IDLE])
    words = ["prove", tiny, "--all", "--seeds", "2", "--equal", "steps", "--steps", "4", "--warmup-steps", "0"]
    assert main(words) == 1 and len(inside) == 12
    shown = capfd.readouterr().out
    assert "off minus on, so that positive is better" in shown
    assert "idle is not proved: its counter is 0 while it is on" in shown and "ema is not" not in shown
    report = json.loads((tmp_path / "prove" / "report.json").read_text())
    ema, idle = report["features"]
    assert not report["proved"] and ema["proved"] and not idle["proved"]
    assert ema["calls"] == 4 and ema["evidence"] > 0 and ema["effect_low"] < ema["effect"] < ema["effect_high"]
    assert idle["calls"] == 0 and idle["evidence"] is None and idle["effect"] == 0, "equal weights and data: no noise"
    assert idle["on"][0] != idle["on"][1], "seeds differ"
    assert ema["bytes_on"] > 1 << 26 and ema["time_ratio"] > 0 and ema["steps_on"] == ema["steps_off"] == 4
    assert "| ema<br>proved |" in (tmp_path / "prove" / "report.md").read_text()
    overrides = {"train.steps": 4, "train.warmup": 0}
    again = package.prove(tiny, overrides=overrides, seeds=2, equal="steps")
    assert json.loads(json.dumps(again.summary())) == report and len(inside) == 12, "from Python, and from what is kept"
    assert len(Image.open(tmp_path / "prove" / "report.png").convert("RGB").getcolors(1 << 24)) > 20


def test_knobs_that_matter_while_it_is_off_are_caught(tiny, tmp_path, inside):
    turned = average(knobs={"optimizer.lr": 0.02}, modules=("eco.nothing",))
    _, difference = trial(tiny, turned, tmp_path)._pilot("steps")
    assert "with its knobs turned the loss of step 2 is" in difference
    assert [task.locked for task in inside] == [(), ("eco.nothing",)], "its modules are locked out of the second"
    _, difference = trial(tiny, average(knobs={"optimizer.lr": -1.0}), tmp_path)._pilot("steps")
    assert "greater than" in difference, "nor may they be refused"


def test_weights_that_differ_behind_equal_losses_are_caught():
    one = arm.Outcome("", (2.0, 1.5), "a", (1.0,), (1.0,), {}, 1)
    assert prove._difference(one, one) == ""
    assert "weights differ" in prove._difference(one, replace(one, weights="b"))
    assert "loss of step 2 is 1.25 and not 1.5" in prove._difference(one, replace(one, losses=(2.0, 1.25)))


def test_the_cheaper_arm_gets_more_steps(tiny, tmp_path, inside, monkeypatch):
    costly = Feature(name="more", what="", on={"train.batch_size": 32}, off={"train.batch_size": 2})
    told = []
    flags = [*STEPS, *from_mapping({"train.batch_size": 32})]
    report = prove.prove_features(tiny, flags, [costly], seeds=2, equal="compute", folder=tmp_path, say=told.append)
    proof = report.proofs[0]
    assert proof.steps_on == 4 < proof.steps_off
    assert any(f"4 steps on, {proof.steps_off} off" in text for text in told)
    arms = ["pilot-on-1", "pilot-off", "pilot-on-2", "pilot-off-turned"]
    arms += ["seed-0-on", "seed-0-off", "seed-1-on", "seed-1-off"]
    assert [Path(task.result).stem for task in inside] == arms


def test_both_arms_start_from_the_weights_of_the_one_with_the_feature(tiny, tmp_path, inside):
    layers = Feature(name="third", what="", on={"model.layers": 3}, off={"model.layers": 2})
    flags = [*STEPS, *from_mapping({"model.layers": 3})]
    on, off = trial(tiny, layers, tmp_path, flags)._pair(0, 4, 4)
    settings = {"model.layers": 3, "train.steps": 4, "train.warmup": 0, "output_dir": str(tmp_path / "plain")}
    plain = package.train(tiny, settings).run
    assert [row["loss"] for row in read_rows(plain)[1:]] == list(on.losses) != list(off.losses)
    logs = [(tmp_path / f"seed-0-{name}" / "logs" / "eco.log").read_text() for name in ("on", "off")]
    assert "20 of 20 tensors" in logs[0] and "14 of 14 tensors" in logs[1]
    assert not list(tmp_path.glob("*.safetensors")), "a finished pair needs them no more"


def test_what_is_finished_is_kept_until_the_recipe_changes(tiny, tmp_path, inside):
    once = trial(tiny, table()["ema"], tmp_path)._pair(1, 4, 4)
    assert trial(tiny, table()["ema"], tmp_path)._pair(1, 4, 4) == once and len(inside) == 2
    (tmp_path / "seed-1-on.json").write_text('{"key": "torn')
    again = trial(tiny, table()["ema"], tmp_path)._pair(1, 4, 4)
    assert [task.result for task in inside[2:]] == [str(tmp_path / "seed-1-on.json")]
    assert (again[0].losses, again[0].weights) == (once[0].losses, once[0].weights)
    changed = trial(tiny, table()["ema"], tmp_path, [*STEPS, *from_mapping({"optimizer.lr": 0.02})])
    assert changed._pair(1, 4, 4)[0].losses != once[0].losses and len(inside) == 5


def test_weights_that_a_stopped_proof_left_are_not_those_of_another_recipe(tiny, tmp_path, inside):
    stopped, changed = tmp_path / "stopped", [*STEPS, *from_mapping({"train.seed": 7})]
    start = trial(tiny, table()["ema"], stopped)._recipe(table()["ema"].switched_on, "seed-0-on", 0, 4)
    prove._save_initial(start, stopped / "seed-0.safetensors")
    pairs = [trial(tiny, table()["ema"], folder, changed)._pair(0, 4, 4) for folder in (stopped, tmp_path / "new")]
    assert [arm.losses for arm in pairs[0]] == [arm.losses for arm in pairs[1]]


def test_a_run_that_diverges_is_named(tiny, tmp_path, monkeypatch):
    ends = {"on": 2.0, "off": None}

    def run(self, arm_name, *_, **__):
        last = {"val_bits_per_byte": ends[arm_name.rpartition("-")[2]]}
        return arm.Outcome("", (2.0,), "a", (1.0,), (1.0,), last, 1)

    monkeypatch.setattr(prove._Trial, "_run", run)
    with pytest.raises(ValueError, match=r"seed-3-off ended without a finite val_bits_per_byte.*lower --lr"):
        trial(tiny, table()["ema"], tmp_path)._pair(3, 4, 4)


def test_a_seed_is_that_of_weights_and_of_the_order_of_the_text(tiny, tmp_path):
    own = recipes.load(tiny)
    seeded = trial(tiny, table()["ema"], tmp_path)._recipe(table()["ema"].switched_on, "on", seed=3, steps=4)
    assert (seeded.train.seed, seeded.data.seed) == (own.train.seed + 3, own.data.seed + 3)


def test_a_folder_that_cannot_be_made_is_an_error(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot write to .*file/runs.*--output-dir"):
        trial(tiny, table()["ema"], tmp_path / "file" / "runs")


def test_a_killed_proof_leaves_no_run_behind_and_goes_on(tiny, tmp_path, inside):
    words = ["prove", tiny, "--feature", "ema", "--equal", "steps", "--train.steps", "4", "--train.warmup", "0"]
    command = [sys.executable, "-m", "eco", *words, "--output-dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    home = tmp_path / "prove" / "runs" / "tiny" / "ema"
    while not (home / "pilot-off-turned.log").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while running(home):
        assert time.monotonic() < deadline, "the arm outlives its proof"
        time.sleep(0.05)
    assert not (home / "pilot-off-turned.json").exists()
    assert trial(tiny, table()["ema"], home)._pilot("steps") == (1.0, "")
    assert [Path(task.result).stem for task in inside] == ["pilot-off-turned"], "the finished one counts"


def running(home):
    """Whether a process works on a task in the folder."""
    listed = subprocess.run(["ps", "-eo", "args"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return str(home) in listed


def test_a_module_of_a_feature_that_is_off_must_not_be_needed(tiny, tmp_path):
    """In a process of its own, since in this one the modules are there already."""
    locked = trial(tiny, average(modules=("eco.models.layers.mlp",)), tmp_path)
    with pytest.raises(ValueError, match=r"eco.models.layers.mlp is imported although the only feature .* is off"):
        locked._run("pilot", locked.feature.turned, seed=0, steps=2, locked=locked.feature.modules)


def test_locked_modules_are_refused_with_what_is_in_them():
    finder = arm.Locked(["eco.models.trm"])
    assert finder.find_spec("eco.models.tr") is None and finder.find_spec("eco.models") is None
    for name in ("eco.models.trm", "eco.models.trm.parts"):
        with pytest.raises(ImportError, match=f"{name} is imported although"):
            finder.find_spec(name)


def test_of_puzzles_solved_more_is_better():
    proof = Proof("x", "", "val_exact_accuracy", (0.5, 0.6), (0.1, 0.3), 6, 6, 1.0, 1, 1, 3, 0.1, "")
    assert proof.effect.value == pytest.approx(0.35) and proof.proved
    assert not replace(proof, difference="it differs").proved


@pytest.mark.parametrize("changed", [{"calls": 0, "evidence": None}, {"evidence": 0.0}, {"evidence": None}])
def test_a_counter_without_evidence_proves_nothing(changed):
    proof = Proof("x", "", "val_exact_accuracy", (0.5, 0.6), (0.1, 0.3), 6, 6, 1.0, 1, 1, 3, 0.1, "")
    silent = replace(proof, **changed)
    assert not silent.proved and len(silent.complaints()) == 1 and proof.complaints() == []


def test_compute_that_was_not_equal_is_remarked_on(tmp_path):
    fair = Proof("x", "", "val_bits_per_byte", (2.0, 2.1), (2.1, 2.3), 60, 75, 1.27, 1, 1, 3, 0.1, "")
    assert fair.effect.value == pytest.approx(0.15) and fair.effect.low < 0 < fair.effect.high, "fewer bits are better"
    dear = replace(fair, feature="y", time_ratio=1.75)
    remarks = Report("tiny", 2, "compute", [fair, dear], tmp_path).remarks()
    assert len(remarks) == 1 and remarks[0].startswith("y: the runs with it had 1.40 of the compute")
    assert Report("tiny", 2, "steps", [fair, dear], tmp_path).remarks() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["sigma-tiny", "--feature", "diff_ml"],
            "no feature 'diff_ml'; did you mean 'diff_mla'?; features of sigma: mamba",
        ),
        (
            ["demo", "--feature", "moe"],
            "the feature 'moe' is for sigma, and this recipe's model is decoder; features of",
        ),
        (["demo"], "say which feature: --feature NAME, or --all"),
        (["demo", "--feature", "ema", "--all"], "--feature ema and --all do not go together"),
        (["demo", "--feature"], "--feature on the command line needs a value"),
        (["demo", "--feature", "ema", "--seeds", "1"], "--seeds 1: an interval needs at least 2"),
        (["demo", "--feature", "ema", "--seeds", "x"], "--seeds takes a number, not 'x'"),
        (["demo", "--feature", "ema", "--equal", "time"], "--equal takes compute or steps, not 'time'"),
        (["demo", "--feature", "ema", "--stepps", "3"], "unknown setting --stepps"),
    ],
)
def test_a_slip_is_an_error(words, message, capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["prove", *words]) == 1
    assert message in capfd.readouterr().err


RECIPES = {
    "sigma": "sigma-tiny", "trm": "trm-sudoku4", "decoder": "demo", "gpt2": "mvlm-gpt2", "simone": "simone-laptop",
}  # fmt: skip


@pytest.mark.parametrize("name", table())
def test_every_feature_of_the_table_can_be_switched(name):
    """In each family that has it: its settings exist, and the ledger's name is there with it and gone without."""
    feature = table()[name]
    for family in feature.families or RECIPES:
        assert find(name, family) is feature
        on, off, turned = (
            switch(RECIPES[family]) for switch in (feature.switched_on, feature.switched_off, feature.turned)
        )
        values = [{key: value for key, _, value in recipes.settings(one)} for one in (on, off, turned)]
        assert values[0] != values[1]
        assert all(values[2][key] == value != values[1][key] for key, value in feature.knobs.items())
        if any(key.startswith("model.") for key in feature.off):
            assert name in features(on) and name not in features(off) and name not in features(turned)


SIGMA = """
model:
  {family: sigma, width: 32, layers: 3, mamba_ratio: 2, heads: 2, head_size: 16, state: 8, mimo_rank: 2, chunk: 8,
   latent: 16, rope_size: 8, feed_forward: 48, routed_experts: 4, context: 32}
tokenizer: {vocab_size: 320}
optimizer: {name: adamw, lr: 0.01}
train: {steps: 4, batch_size: 4, eval_windows: 4}
"""


@pytest.mark.parametrize("feature", features_of("sigma"), ids=lambda feature: feature.name)
def test_every_feature_that_is_off_is_as_if_it_had_never_been(feature, tmp_path, corpus, inside):
    path = tmp_path / "sigma.yaml"
    path.write_text(SIGMA + f"data: {{paths: ['{corpus}'], held_out: 0.4}}\n")
    assert trial(str(path), feature, tmp_path / "runs", [])._pilot("steps") == (1.0, "")


def features(recipe):
    with torch.device("meta"):
        config = recipe.model.model_copy(update={"vocab_size": 320})
        return find_plugin("models", config.family).build(config).features
