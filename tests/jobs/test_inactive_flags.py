"""A run tells which of its flags have nothing behind them yet, on the terminal, in its log and in its recipe."""

import pytest

import eco as package
from eco import recipe as recipes
from eco.cli import eco_train
from eco.observe.metrics import read_metrics

TOLD = "not active yet: --replay-capacity, --uroboros-interval, --hydra-enable"


@pytest.fixture
def flags(tiny, tmp_path):
    file = tmp_path / "flags.txt"
    file.write_text(
        f"--recipe {tiny}\n--steps 2\n--output-dir run\n"
        "--replay-capacity 512\n--uroboros-interval 10\n--hydra-enable\n--data-backend hybrid\n"
    )
    return f"@{file}"


def test_training_tells_them_by_name(flags, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert eco_train([flags, "--data-backend", "local"]) == 0
    assert TOLD in capfd.readouterr().out.splitlines()
    log = (tmp_path / "run" / "logs" / "eco.log").read_text()
    assert TOLD in log
    assert recipes.load(str(tmp_path / "run")).inactive_flags[0] == "--replay-capacity"


def test_they_change_no_loss(tiny, flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert eco_train([flags]) == 0
    package.train(tiny, {"output_dir": "plain", "train.steps": 2})
    given, plain = (read_metrics(tmp_path / name / "metrics.jsonl")[1:] for name in ("run", "plain"))
    assert [row["loss"] for row in given] == [row["loss"] for row in plain]


def test_a_run_without_them_tells_nothing(tiny, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert eco_train(["--recipe", tiny, "--steps", "1", "--output-dir", "run"]) == 0
    assert "not active" not in capfd.readouterr().out


SMALL = "--d-model 32 --n-layers 6 --n-heads 2 --kv-latent-dim 16 --d-ff 48 --mamba-head-size 16 --mamba-state 8 "
SMALL += "--rope-size 8 --vocab-size 0 --tokenizer.vocab_size 300 --seq-len 32 --batch-size 2 --eval-windows 2"


def test_the_shipped_profile_trains_made_small(corpus, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    here = ["--device", "cpu", "--no-require-cuda", "--steps", "2", "--data.paths", str(corpus)]
    assert eco_train(["@train_sigma_args.txt", *here, *SMALL.split()]) == 0, capfd.readouterr().err
    assert "not active yet: --" in capfd.readouterr().out
    assert [row["step"] for row in read_metrics(tmp_path / "runs" / "sigma_main" / "metrics.jsonl")] == [0, 1, 2]
    assert (tmp_path / "checkpoints" / "step_00000002").is_dir()


def test_many_of_them_are_wrapped_between_names(tiny, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    args = ["--hydra-enable", "--uroboros-enabled", "--replay-capacity", "1", "--ttrl-interval", "2"]
    assert eco_train(["--recipe", tiny, "--steps", "1", "--output-dir", "run", *args, "--causal-replay-enabled"]) == 0
    first, second = (line for line in capfd.readouterr().out.splitlines() if "-enable" in line)
    assert first == "not active yet: --hydra-enable, --uroboros-enabled, --replay-capacity, --ttrl-interval,"
    assert second == "  --causal-replay-enabled"
