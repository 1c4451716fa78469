"""The whole profile at tiny size: every feature that it switches on acts, rows and checkpoints are complete."""

import pytest
from small_run import read_rows

from eco import recipe as recipes
from eco.cli import eco_train
from eco.jobs.features import table
from eco.training.checkpoint import Checkpoints

PROFILE = ["@train_sigma_args.txt", "--preset", "tiny", "--device", "cpu", "--no-require-cuda"]
PROFILE += ["--data-backend", "local", "--no-resume"]

ACTIVE = {"mamba_scan", "mamba_rotation", "diff_mla", "moe", "rib", "bitlinear", "c3o_credit", "instant"}
"""Features of the profile that the ledger must name; others that it names must act too."""


def trained(folder, steps, *words):
    """Rows of metrics.jsonl and step of each checkpoint."""
    assert eco_train([*PROFILE, "--steps", str(steps), *words]) == 0
    rows = read_rows(folder / "runs" / "sigma_main")
    return rows, {entry.step for entry in Checkpoints(folder / "checkpoints").entries()}


def check_features(row):
    enabled = {
        name.removeprefix("feature_").removesuffix("_enabled"): value
        for name, value in row.items()
        if name.startswith("feature_") and name.endswith("_enabled")
    }
    active = {name for name, on in enabled.items() if on}
    assert active >= ACTIVE
    assert {
        name: row[f"feature_{name}_effective_calls"] for name in active if not row[f"feature_{name}_evidence"]
    } == {}
    assert all(row[f"feature_{name}_effective_calls"] > 0 for name in active)
    assert active <= {*table(), "mamba_scan", "improve"}, "`eco prove` knows them, but for those that cannot be off"


def test_twelve_steps_of_the_profile(corpus, tmp_path, monkeypatch, capfd):
    """Credit is measured at each step instead of at each eighth: the fifth measurement is the first that scales."""
    monkeypatch.chdir(tmp_path)
    words = ["--save-interval", "6", "--credit-interval", "1", "--data.paths", str(corpus), "--data.held_out", "0.4"]
    rows, checkpoints = trained(tmp_path, 12, *words, "--tokenizer.vocab_size", "320", "--eval-windows", "2")
    assert [row["step"] for row in rows] == list(range(13))
    assert checkpoints == {6, 12}
    check_features(rows[-1])
    assert recipes.load(str(tmp_path / "runs" / "sigma_main")).optimizer.name == "c3o"


@pytest.mark.slow  # about a minute, most of it for the tokenizer
def test_a_hundred_and_thirty_steps_of_the_profile(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    rows, checkpoints = trained(tmp_path, 130, "--save-interval", "65", "--log-interval", "10")
    assert [row["step"] for row in rows] == list(range(131))
    assert checkpoints >= {65, 130}
    assert (tmp_path / "checkpoints" / "step_00000130").is_dir()
    check_features(rows[-1])
    assert rows[-1]["val_loss"] < 0.8 * rows[0]["val_loss"], "and it learns"
