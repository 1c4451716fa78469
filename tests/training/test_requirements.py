"""A run that demands a GPU or Triton stops at its start where there is none, and says how to mend that."""

import pytest
import torch

from eco.kernels import triton
from eco.training.config import TrainConfig
from eco.training.requirements import check_requirements


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("ECO_KERNELS", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.mark.parametrize("flag", ["require-cuda", "require-triton"])
def test_a_run_stops_before_it_starts_unless_the_flag_is_taken_back(eco, tiny, tmp_path, flag):
    refused = eco("train", tiny, f"--{flag}", "--output-dir", "run")
    assert refused.returncode == 1 and f"train.{flag.replace('-', '_')}" in refused.stderr
    assert f"--no-{flag}" in refused.stderr and "Traceback" not in refused.stderr
    assert not (tmp_path / "run").exists()
    assert eco("train", tiny, f"--{flag}", f"--no-{flag}", "--steps", "1", "--output-dir", "run").returncode == 0


def test_what_is_missing_is_named(monkeypatch):
    config, cpu = TrainConfig(require_triton=True), torch.device("cpu")
    with pytest.raises(ValueError, match="no CUDA device"):
        check_requirements(config, cpu)
    monkeypatch.setattr(triton, "_installed", lambda: False)
    with pytest.raises(ValueError, match="pip install triton"):
        check_requirements(config, cpu)
    with pytest.raises(ValueError, match="CUDA build of torch"):
        check_requirements(TrainConfig(require_cuda=True), cpu)


def test_a_wish_or_a_device_that_rules_triton_out_is_named(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(triton, "_installed", lambda: True)
    config = TrainConfig(require_triton=True, require_cuda=True)
    check_requirements(config, torch.device("cuda"))
    with pytest.raises(ValueError, match="device is cpu"):
        check_requirements(TrainConfig(device="cpu", require_cuda=True), torch.device("cpu"))
    monkeypatch.setenv("ECO_KERNELS", "cpp")
    with pytest.raises(ValueError, match="ECO_KERNELS is cpp"):
        check_requirements(config, torch.device("cuda"))


def test_the_interpreter_counts_as_triton(monkeypatch):
    monkeypatch.setattr(triton, "_installed", lambda: True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("ECO_KERNELS", "triton")
    config = TrainConfig(require_triton=True)
    assert check_requirements(config, torch.device("cpu")) is None
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match="no-require-triton"):
        check_requirements(config, torch.device("cpu"))
