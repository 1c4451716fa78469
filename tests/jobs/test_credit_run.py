"""Credit in a whole run: on held-out windows of its own, exact over a kill, refused where it cannot be."""

import pytest
import torch
from small_run import SMALL_PUZZLES, read_rows
from test_resume import STEPS, assert_equal_runs, flags, losses, start_and_kill

import eco as package
from eco import recipe as recipes
from eco.evaluation.held_out import spread
from eco.jobs.credit import open_credit
from eco.jobs.language import LanguageWork
from eco.models import decoder
from eco.optim import c3o
from eco.training.precision import Precision

CREDIT = {  # measured at 3, 6, 9, ...; audited at 12, then heard
    "optimizer.name": "c3o",
    "optimizer.block_size": 256,
    "credit.enabled": True,
    "credit.every": 3,
    "credit.audit_every": 12,
    "credit.windows": 2,
    "train.steps": STEPS,
    "train.accumulation": 2,
    "model.dropout": 0.1,
    "checkpoint.every": 5,
}


def trained(recipe, run, **over):
    package.train(recipe, CREDIT | over | {"output_dir": str(run)})
    return run


def test_a_run_with_credit_goes_on_bit_identically_after_a_kill_between_measurements(eco, tiny, tmp_path):
    words = ["train", tiny, *flags(CREDIT), "--output-dir", "killed"]
    start_and_kill(eco, words, tmp_path / "killed")
    again = eco(*words)
    assert again.returncode == 0, again.stderr
    whole = trained(tiny, tmp_path / "whole")
    assert_equal_runs(whole, tmp_path / "killed")
    rows, resumed = read_rows(whole), read_rows(tmp_path / "killed")
    assert resumed[-1]["checkpoint_resume_step"] % 3
    figures = [
        [{name: value for name, value in row.items() if "c3o_" in name} for row in run[1:]] for run in (rows, resumed)
    ]
    assert figures[0] == figures[1]
    assert rows[-1]["feature_c3o_credit_effective_calls"] == 4, "scaled updates among those of steps 15, 18, 21, 24"
    assert rows[-1]["feature_c3o_credit_evidence"] > 0 and rows[12]["c3o_credit_audit_corr"] > 0.3


def test_without_gain_credit_only_looks_on(tiny, tmp_path):
    off = trained(tiny, tmp_path / "off", **{"credit.enabled": False})
    looks_on = trained(tiny, tmp_path / "looks on", **{"optimizer.credit_gain": 0})
    heard = trained(tiny, tmp_path / "heard")
    assert losses(off) == losses(looks_on) != losses(heard)
    assert read_rows(off)[-1]["feature_c3o_credit_enabled"] == 0
    assert not any("c3o_credit_t" in row for row in read_rows(off))
    assert read_rows(looks_on)[-1]["feature_c3o_credit_effective_calls"] == 0


def test_a_run_that_goes_on_without_credit_forgets_what_it_was_told(tiny, tmp_path):
    run = trained(tiny, tmp_path / "run", **{"train.steps": 16, "train.schedule": "constant"})
    assert read_rows(run)[-1]["c3o_block_scale_std"] > 0
    trained(tiny, run, **{"train.steps": 18, "train.schedule": "constant", "credit.enabled": False})
    assert [row["c3o_block_scale_std"] for row in read_rows(run)[-2:]] == [0, 0]


@pytest.fixture
def work(tiny):
    recipe = recipes.load(tiny)
    return LanguageWork(recipe, recipe.tokenizer, torch.device("cpu"), lambda text: None)


def windows_of(batches):
    return [tuple(row) for batch in batches for row in batch["tokens"].tolist()]


def test_the_windows_are_held_out_not_those_of_evaluation_and_each_comes_once_a_round(work):
    everything = windows_of(spread(work._held_out, 8))
    evaluated = windows_of(spread(work._held_out, 8, 4))
    left = work.unmeasured(2)
    assert len(left) == len(everything) - len(evaluated) > 8
    rounds = [windows_of(left.batch(first, len(left)) for _ in "a") for first in (0, len(left))]
    assert sorted(rounds[0]) == sorted(rounds[1]) == sorted(set(everything) - set(evaluated))
    assert rounds[0] != rounds[1]
    again = work.unmeasured(2)
    assert windows_of([again.batch(3, 2), again.batch(5, 4)]) == rounds[0][3:9]


def test_embedding_and_head_are_measured_but_not_compared(work):
    work.model = model = decoder.build(decoder.Config(width=32, layers=1, heads=2, vocab_size=300, tied=False))
    optimizer = c3o.build(c3o.Config(block_size=64), model)
    credit = open_credit(work._recipe, work, optimizer, Precision("fp32", torch.device("cpu")))
    parts = credit._compared.split([len(offsets) - 1 for offsets in optimizer.blocks.values()])
    compared = {p for p, part in zip(optimizer.blocks, parts, strict=True) if part.any()}
    matrices = {name: p in compared for name, p in model.named_parameters() if p.ndim == 2}
    assert [name for name, told in matrices.items() if not told] == ["embedding.weight", "head.weight"]
    assert len(matrices) == 6


def test_where_evaluation_leaves_nothing_credit_is_refused(tiny, tmp_path, eco):
    refused = eco("train", tiny, *flags(CREDIT), "--eval-windows", "0")
    assert refused.returncode != 0 and "it leaves 0 of" in refused.stderr


def test_fp16_is_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match="take --precision bf16"):
        trained(tiny, tmp_path / "run", **{"train.precision": "fp16"})


@pytest.mark.parametrize("width", [0, 32])
def test_puzzles_are_refused(tmp_path, width):
    recipe = tmp_path / "puzzles.yaml"
    recipe.write_text(SMALL_PUZZLES.replace("steps: 4}", f"steps: 4, puzzle_width: {width}}}", 1))
    with pytest.raises(ValueError, match="puzzle"):
        over = {"optimizer.name": "c3o", "credit.enabled": True, "output_dir": str(tmp_path / "run")}
        package.train(str(recipe), over)
