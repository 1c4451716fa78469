"""Two processes under torchrun share each global batch and end where one process ends."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import eco as package
from eco.training.distributed import World


def train(tiny, tmp_path, name, *words):
    run = tmp_path / name
    command = [sys.executable, "-m", *words, "train", tiny, "--output-dir", str(run), "--train.accumulation", "2"]
    done = subprocess.run([*command, "--steps", "6"], capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert done.stdout.count("run directory") == 2, "one process speaks: at the start and at the end"
    return rows, load_file(run / "checkpoints" / "step_00000006" / "model.safetensors")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_two_processes_equal_one(tiny, tmp_path):
    one, weights = train(tiny, tmp_path, "one", "eco")
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "eco"]
    two, shared = train(tiny, tmp_path, "two", *launcher)
    assert [row["step"] for row in two] == [row["step"] for row in one]
    assert [row["tokens_seen_total"] for row in two] == [row["tokens_seen_total"] for row in one]
    assert [row["loss"] for row in two[1:]] == pytest.approx([row["loss"] for row in one[1:]], rel=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(shared[name], weight, rtol=1e-4, atol=1e-5)


def test_the_device_decides_how_processes_talk(monkeypatch):
    asked = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.set_device", lambda index: asked.append(index))
    monkeypatch.setattr("torch.distributed.init_process_group", asked.append)
    World("cpu")
    World("cuda")
    assert asked == ["gloo", 1, "nccl"], "a machine with a GPU still trains on its CPUs when asked to"


def test_processes_that_do_not_see_the_same_checkpoints_are_an_error(tiny, tmp_path, monkeypatch):
    settings = {"output_dir": str(tmp_path / "run"), "train.steps": 2}
    package.train(tiny, settings)
    monkeypatch.setattr(World, "agree", lambda self, flag: True)  # some other process always votes the other way
    with pytest.raises(ValueError, match="a disk that they share"):
        package.train(tiny, settings)
