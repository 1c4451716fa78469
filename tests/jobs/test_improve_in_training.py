"""Training that calls the loop: off it is not there, taken back it was not there, and killed it goes back with it."""

import json
import time
from dataclasses import replace
from itertools import pairwise

import pytest
from safetensors.torch import load_file
from small_loop import SMALL, SUMS, about_half, content, judge_by, write_recipe
from small_run import SMALL_PUZZLES

import eco as package
from eco.improvement.callback import Improving
from eco.improvement.decisions import read_decisions
from eco.improvement.gate import decide
from eco.observe.metrics import read_metrics

STEPS = 8
EVERY_2 = {"improve.generation_interval": 2, "improve.start_after_steps": 2, "train.steps": STEPS, "model.dropout": 0.1}


@pytest.fixture
def recipe(tmp_path, corpus):
    return write_recipe(tmp_path / "tiny.yaml", corpus)


@pytest.fixture
def judge(monkeypatch):
    """Completions are judged by their length; `keep` says which rounds are kept, whatever they gained."""
    judge_by(monkeypatch, about_half)

    def keep(wanted):
        def decided(*given):
            return replace(decide(*given), promote=bool(wanted(given[1])))

        monkeypatch.setattr("eco.improvement.loop.decide", decided)

    return keep


def every_other(measured) -> bool:
    return round(1e6 * measured.bits_per_byte) % 2 == 0


def train(recipe, run, **settings):
    return package.train(recipe, SMALL | EVERY_2 | {"output_dir": str(run)} | settings)


def losses(run):
    return [(row["step"], row["loss"]) for row in read_metrics(run / "metrics.jsonl") if "loss" in row]


def final(run):
    folder = run / f"checkpoints/step_{STEPS:08d}"
    return {
        (part, name): tensor
        for part in ("model", "optimizer")
        for name, tensor in load_file(folder / f"{part}.safetensors").items()
    }


def same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_settings_of_the_loop_change_nothing_while_it_is_off(recipe, tmp_path):
    plain = package.train(recipe, {"output_dir": str(tmp_path / "plain"), "train.steps": STEPS, "model.dropout": 0.1})
    off = train(recipe, tmp_path / "off", **{"improve.generation_interval": 0})
    assert losses(plain.run) == losses(off.run) and same(final(plain.run), final(off.run))
    assert not list(off.run.glob("improve*"))


def test_rounds_that_are_taken_back_leave_no_trace_in_training(recipe, tmp_path, judge):
    off = train(recipe, tmp_path / "off", **{"improve.generation_interval": 0})
    judge(lambda measured: False)
    on = train(recipe, tmp_path / "on", **{"improve.warmup_tasks": 0, "improve.warmup_steps": 0})
    decisions = read_decisions(on.run / "improve-in-training/decisions.jsonl")
    assert [decision["promoted"] for decision in decisions] == [False] * 4
    assert losses(off.run) == losses(on.run) and same(final(off.run), final(on.run))
    assert read_metrics(on.run / "metrics.jsonl")[-1]["improve_round"] == 4


def test_where_nothing_passes_training_goes_on(recipe, tmp_path, monkeypatch, eco):
    off = train(recipe, tmp_path / "off", **{"improve.generation_interval": 0})
    judge_by(monkeypatch, lambda completion: "def solve" in completion)
    settings = SMALL | EVERY_2 | {"improve.warmup_tasks": 0, "improve.warmup_steps": 0}
    done = eco("train", recipe, "--output-dir", "on", *(word for k, v in settings.items() for word in (f"--{k}", v)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("passed (16 fail)") == 4 and "training goes on" in done.stdout
    assert losses(off.run) == losses(tmp_path / "on") and same(final(off.run), final(tmp_path / "on"))


def test_kept_rounds_are_measured_against_the_weights_of_the_moment(recipe, tmp_path, judge):
    judge(lambda measured: True)
    on = train(recipe, tmp_path / "on")
    decisions = read_decisions(on.run / "improve-in-training/decisions.jsonl")
    assert [decision["round"] for decision in decisions] == [1, 2, 3, 4]
    for last, decision in pairwise(decisions):
        assert last["after"]["bits_per_byte"] != decision["before"]["bits_per_byte"], "training was in between"
        bits = next(check for check in decision["checks"] if check["name"] == "bits per byte")["evidence"]
        assert bits["start"] == bits["before"] == decision["before"]["bits_per_byte"]
    gains = [decision["checks"][0]["evidence"]["gain"] for decision in decisions]
    row = read_metrics(on.run / "metrics.jsonl")[-1]
    assert row["feature_improve_effective_calls"] == sum(gain != 0 for gain in gains) > 0
    assert row["val_unsolved"] == 1 - row["improve_pass_at_1/synthesis"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", [2, 6])
def test_a_kill_between_a_round_and_the_next_checkpoint_takes_the_loop_back_too(
    recipe, tmp_path, judge, monkeypatch, at
):
    """Checkpoints come every 4 steps: at step 2 there is none yet, at step 6 two rounds are known to none."""
    judge(every_other)
    whole = train(recipe, tmp_path / "whole")
    step = Improving.step

    def killed(self, trainer, row):
        step(self, trainer, row)
        if trainer.step == at:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Improving, "step", killed)
        with pytest.raises(Killed):
            train(recipe, tmp_path / "killed")
    left = json.loads((tmp_path / "killed/improve-in-training/head.json").read_text())
    assert left["round"] == at // 2
    again = train(recipe, tmp_path / "killed")
    found = content(whole.run / "improve-in-training")
    assert content(again.run / "improve-in-training") == found
    assert len(found["rows"]) > 0 and found["head.json"]["round"] == 4
    kept = [json.loads(line)["promoted"] for line in found["decisions"].splitlines()]
    assert len(set(kept)) == 2, "some rounds are kept, and some are not"
    assert losses(whole.run) == losses(again.run)
    assert same(final(whole.run), final(again.run))


def test_a_training_that_is_killed_while_it_improves_goes_on_bit_identically(recipe, tmp_path, eco):
    settings = SUMS | EVERY_2 | {"improve.warmup_steps": 40}  # enough to solve some in every round
    whole = package.train(recipe, settings | {"output_dir": str(tmp_path / "whole")})
    assert len(read_decisions(whole.run / "improve-in-training/decisions.jsonl")) > 2
    decisions = tmp_path / "killed/improve-in-training/decisions.jsonl"
    process = eco.start(
        "train", recipe, "--output-dir", "killed", *(word for k, v in settings.items() for word in (f"--{k}", v))
    )
    until = time.monotonic() + 120
    while (not decisions.exists() or len(read_decisions(decisions)) < 2) and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (tmp_path / f"killed/checkpoints/step_{STEPS:08d}").exists()
    again = package.train(recipe, settings | {"output_dir": str(tmp_path / "killed")})
    assert content(whole.run / "improve-in-training") == content(again.run / "improve-in-training")
    assert losses(whole.run) == losses(again.run) and same(final(whole.run), final(again.run))


def test_a_loop_goes_on_with_the_tasks_that_it_was_begun_on(recipe, tmp_path, judge):
    judge(every_other)
    train(recipe, tmp_path / "run")
    for changed in ({"improve.domains": "arithmetic:1"}, {"improve.tasks": "arithmetic:1"}):
        with pytest.raises(ValueError, match=r"was begun on synthesis, not on .*arithmetic"):
            train(recipe, tmp_path / "run", **changed, **{"train.steps": STEPS + 4})
    with pytest.raises(ValueError, match="go on with the tasks, the pool and the seed"):
        train(recipe, tmp_path / "run", **{"improve.pool": 20, "train.steps": STEPS + 4})


def test_a_new_training_in_the_same_place_begins_a_new_loop(recipe, tmp_path, judge):
    judge(every_other)
    first = train(recipe, tmp_path / "run")
    found, bits = content(first.run / "improve-in-training"), final(first.run)
    again = train(recipe, tmp_path / "run", resume=False)
    assert content(again.run / "improve-in-training") == found and same(final(again.run), bits)
    assert content(again.run / "previous/1/improve-in-training") == found, "what the earlier one learnt is not lost"


def test_models_of_puzzles_have_no_loop(tmp_path):
    (tmp_path / "puzzles.yaml").write_text(SMALL_PUZZLES)
    with pytest.raises(ValueError, match=r"improve\.generation_interval is for language models"):
        package.train(
            str(tmp_path / "puzzles.yaml"), {"output_dir": str(tmp_path / "run"), "improve.generation_interval": 5}
        )
