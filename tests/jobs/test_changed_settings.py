"""Settings do what their help says, also when they change as a run goes on."""

import pytest
import torch

import eco as package
from eco.observe.metrics import read_metrics


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_learning_rate_is_that_of_the_new_session(tiny, tmp_path, optimizer):
    settings = {"output_dir": str(tmp_path / "run"), "optimizer.name": optimizer, "train.schedule": "constant"}
    package.train(tiny, settings | {"train.steps": 6})
    package.resume(tmp_path / "run", {"train.steps": 8, "optimizer.lr": 0.003})
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["lr"] for row in rows[4:]] == [0.01, 0.01, 0.01, 0.003, 0.003]


def test_one_setting_smooths_the_loss_and_the_rate(tiny, tmp_path):
    package.train(tiny, {"output_dir": str(tmp_path / "run"), "train.steps": 4, "log.ema": 0})
    for row in read_metrics(tmp_path / "run" / "metrics.jsonl")[1:]:
        assert row["loss_ema"] == row["loss"]
        assert row["tokens_per_s_ema"] == pytest.approx(row["tokens_per_s"])


def losses(tiny, run, **settings):
    keys = {f"train.{name}": value for name, value in settings.items()}
    package.train(tiny, {"output_dir": str(run), "train.steps": 4, "train.eval_every": 0} | keys)
    return [row["loss"] for row in read_metrics(run / "metrics.jsonl")[1:]]


def test_gradient_checkpointing_changes_no_loss_and_precision_does(tiny, tmp_path):
    exact = losses(tiny, tmp_path / "fp32")
    assert losses(tiny, tmp_path / "recomputed", gradient_checkpointing=True) == exact
    for precision in ("bf16", "fp16"):
        rough = losses(tiny, tmp_path / precision, precision=precision)
        assert rough != exact, "the setting did nothing"
        assert rough == pytest.approx(exact, rel=1e-2)


@pytest.mark.slow
def test_a_compiled_step_learns_the_same(tiny, tmp_path):
    frames = torch._dynamo.utils.counters["frames"]
    before = frames["ok"]
    assert losses(tiny, tmp_path / "compiled", compile=True) == pytest.approx(
        losses(tiny, tmp_path / "plain"), rel=1e-4
    )
    assert frames["ok"] > before, "nothing was compiled"
