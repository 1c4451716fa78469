"""Settings do what their help says, also when they change as a run goes on."""

import pytest

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
