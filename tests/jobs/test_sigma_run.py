"""A SigmaLM in training: its features have evidence, it goes on bit-identically, text comes out."""

import shutil

import pytest
from safetensors.torch import load_file
from small_run import read_rows

import eco as package

SMALL = """
model:
  {family: sigma, width: 32, layers: 3, mamba_ratio: 2, heads: 2, head_size: 16, state: 8, mimo_rank: 2, chunk: 8,
   latent: 16, rope_size: 8, feed_forward: 48, routed_experts: 4, context: 32}
tokenizer: {vocab_size: 320}
optimizer: {name: adamw, lr: 0.01}
train: {steps: 12, batch_size: 4, warmup: 3, eval_every: 5, eval_windows: 4}
checkpoint: {every: 4, seconds: 0, keep: 9}
sampling: {max_new_tokens: 8}
prompts: ["def "]
"""


@pytest.fixture
def small(tmp_path, corpus):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL + f"data: {{paths: ['{corpus}'], held_out: 0.2}}\n")
    return str(path)


def weights(run, step):
    return load_file(run / "checkpoints" / f"step_{step:08d}" / "model.safetensors")


def test_every_feature_counts_its_steps_with_evidence(small, tmp_path):
    run = package.train(small, {"output_dir": str(tmp_path / "run")}).run
    last = read_rows(run)[-1]
    for name in ("mamba_scan", "diff_mla", "moe"):
        assert last[f"feature_{name}_effective_calls"] == 12 and last[f"feature_{name}_evidence"] > 0
    assert 10 <= last["feature_bitlinear_effective_calls"] <= 12, "codes flip in nearly every step"
    families = ("moe_usage_max", "rib_retained_info", "mamba_decay_mean", "diff_attn_lambda_min", "qk_max_peak")
    assert all(name in last for name in families)
    assert (run / "samples").is_dir() and any((run / "samples").iterdir())


def test_a_part_that_is_off_is_not_counted(small, tmp_path):
    off = {"model.quant_mode": "none", "model.differential": False, "model.routed_experts": 0}
    last = read_rows(package.train(small, off | {"output_dir": str(tmp_path / "run")}).run)[-1]
    assert last["feature_mamba_scan_effective_calls"] == 12
    assert not any(f"feature_{name}_effective_calls" in last for name in ("diff_mla", "moe", "bitlinear"))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_goes_on_bit_identically_from_a_checkpoint(small, tmp_path, optimizer):
    settings = {"optimizer.name": optimizer, "train.accumulation": 2, "model.dropout": 0.1}
    whole = package.train(small, settings | {"output_dir": str(tmp_path / "whole")}).run
    again = shutil.copytree(whole, tmp_path / "again")
    for later in sorted((again / "checkpoints").glob("step_*"))[1:]:
        shutil.rmtree(later)
    package.resume(again)
    assert read_rows(again)[-1]["checkpoint_resume_step"] == 4
    assert [row["loss"] for row in read_rows(whole)[1:]] == [row["loss"] for row in read_rows(again)[1:]]
    one, other = weights(whole, 12), weights(again, 12)
    assert one.keys() == other.keys() and "blocks.0.experts.router.bias" in one
    assert [name for name in one if not one[name].equal(other[name])] == []


def test_gradient_checkpointing_changes_no_loss(small, tmp_path):
    runs = [
        package.train(small, {"output_dir": str(tmp_path / str(on)), "train.gradient_checkpointing": on}).run
        for on in (False, True)
    ]
    one, other = ([row["loss"] for row in read_rows(run)[1:]] for run in runs)
    assert one == other
