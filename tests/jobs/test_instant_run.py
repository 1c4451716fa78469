"""INSTANT in whole runs: figures and evidence, exact resume, what is off changes nothing, what it refuses."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_run import TINY, read_rows

import eco as package
from eco.training.manifest import Manifest

SIGMA = """
model:
  {family: sigma, width: 32, layers: 3, mamba_ratio: 2, heads: 2, head_size: 16, state: 8, mimo_rank: 2, chunk: 8,
   latent: 16, rope_size: 8, feed_forward: 48, routed_experts: 4, context: 32, dropout: 0.1}
tokenizer: {vocab_size: 320}
optimizer: {name: adamw, lr: 0.01}
train: {steps: 8, batch_size: 4, accumulation: 2, warmup: 3, eval_every: 4, eval_windows: 4}
checkpoint: {every: 4, seconds: 0, keep: 9}
sampling: {max_new_tokens: 8}
prompts: ["def "]
"""
RECIPES = {"sigma": SIGMA, "decoder": TINY.replace("seconds: 0", "seconds: 0, keep: 9")}


@pytest.fixture(params=RECIPES)
def small(request, tmp_path, corpus):
    path = tmp_path / "small.yaml"
    path.write_text(RECIPES[request.param] + f"data: {{paths: ['{corpus}'], held_out: 0.2}}\n")
    return str(path)


def losses(run):
    return [row["loss"] for row in read_rows(run)[1:]]


def train(recipe, folder, **settings):
    return package.train(recipe, {f"model.{k}": v for k, v in settings.items()} | {"output_dir": str(folder)}).run


def test_what_is_off_changes_no_bit(small, tmp_path):
    as_ever = train(small, tmp_path / "one")
    others = {"instant_comp_dim": 8, "instant_error_threshold": 0.5, "instant_reversible_iters": 2}
    off = train(small, tmp_path / "two", instant_mode="off", **others)
    assert losses(as_ever) == losses(off)
    last = read_rows(off)[-1]
    assert last["feature_instant_enabled"] == last["feature_instant_compress_enabled"] == 0
    assert not any(name.startswith("instant_") and name != "instant_enabled" for name in read_rows(off)[-1])


WAYS = {
    "coupling": {"instant_mode": "coupling"},
    "checkpoint": {"instant_mode": "checkpoint"},
    "fixed_point": {"instant_mode": "fixed_point"},
    "compressed": {"instant_compress": "all"},
    "checkpoint and compressed": {"instant_mode": "checkpoint", "instant_compress": "attention"},
}


@pytest.mark.parametrize("way", WAYS)
def test_it_saves_and_goes_on_bit_identically(small, tmp_path, way):
    if way == "checkpoint and compressed" and "decoder" in Path(small).read_text():
        pytest.skip("a decoder has attention in all of its blocks")
    whole = train(small, tmp_path / "whole", **WAYS[way], context=256)
    last = read_rows(whole)[-1]
    on = {"instant": "instant_mode" in WAYS[way], "instant_compress": "instant_compress" in WAYS[way]}
    for name, there in on.items():
        assert last[f"feature_{name}_enabled"] == there
        assert last.get(f"feature_{name}_effective_calls", 0) == last["step"] * there
    saved = [last.get(f"feature_{name}_evidence", 0.0) for name in on]
    assert last["instant_memory_saved_gb"] == sum(saved) and last["instant_saved_gb"] == saved[0]
    if way in ("coupling", "fixed_point"):
        assert last["instant_reversible_rel_error"] < 0.05 and last["instant_inversion_rel_residual"] < 0.05
    if "compressed" in way:
        assert last["instant_compression_ratio"] > 1 and last["instant_error_threshold"] == 0.05
    again = shutil.copytree(whole, tmp_path / "again")
    for later in sorted((again / "checkpoints").glob("step_*"))[1:]:
        shutil.rmtree(later)
    package.resume(again)
    assert read_rows(again)[-1]["checkpoint_resume_step"] == 4
    assert losses(whole) == losses(again)
    one, other = (
        load_file(sorted((run / "checkpoints").glob("step_*"))[-1] / "model.safetensors") for run in (whole, again)
    )
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)
    assert package.load(whole).generate("def ", max_new_tokens=4) == package.load(again).generate(
        "def ", max_new_tokens=4
    )


def test_a_run_goes_on_with_what_changes_no_forward_pass_or_without_it(small, tmp_path):
    """Also one of a version that had no INSTANT, whose checkpoints say nothing of it."""
    run = tmp_path / "run"
    for steps, settings in ((4, {}), (5, {"instant_compress": "all"}), (6, {"instant_mode": "checkpoint"}), (7, {})):
        package.train(
            small, {f"model.{k}": v for k, v in settings.items()} | {"train.steps": steps, "output_dir": str(run)}
        )
        assert read_rows(run)[-1]["step"] == steps
    checkpoint = sorted((run / "checkpoints").glob("step_*"))[-1]
    assert not any(name.startswith("instant") for name in Manifest.read(checkpoint).fit["model"])
    with pytest.raises(ValueError, match=r"model.instant_mode is absent in the checkpoint and coupling in the recipe"):
        train(small, run, instant_mode="coupling")


def test_checkpoint_is_the_function_of_off(small, tmp_path):
    off, on = train(small, tmp_path / "off"), train(small, tmp_path / "on", instant_mode="checkpoint")
    assert losses(on)[0] == losses(off)[0]
    assert losses(on) == pytest.approx(losses(off), rel=2e-3)  # gradients are added up in another order


@pytest.mark.parametrize("setting", ["train.compile", "train.gradient_checkpointing"])
def test_what_does_not_go_together_is_refused(small, tmp_path, setting):
    with pytest.raises(ValueError, match="take one"):
        package.train(small, {"model.instant_mode": "coupling", setting: True, "output_dir": str(tmp_path / "run")})


def test_a_mode_with_nothing_left_to_invert_is_refused(small, tmp_path):
    with pytest.raises(ValueError, match="leave one of the two out"):
        train(small, tmp_path / "run", instant_mode="coupling", instant_compress="all")
