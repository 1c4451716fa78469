"""The loop: a round that is killed is done again to the bit, what does harm is taken back, what helps is kept."""

import errno
import json
import os
import random
import shutil
import sys
import threading
import zlib
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from small_loop import Bench, about_half, answering, content, judge_by, planted, same_weights, weights, write_recipe

from eco.improvement.attempt import reference
from eco.improvement.draw import Drawn
from eco.improvement.gate import decide
from eco.improvement.learn.expert import Update
from eco.improvement.loop import CanaryPassed, NothingPasses
from eco.improvement.start import copy_start
from eco.improvement.store import draw as store_draw
from eco.improvement.store.versions import EMPTY
from eco.tasks.generate.program import ProgramTask
from eco.tasks.verdict import Verdict

CHANGES = ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir")
"""What brings something to the disk, or takes it away."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory, corpus):
    with ExitStack() as closing:
        yield Bench(write_recipe(tmp_path_factory.mktemp("recipe") / "tiny.yaml", corpus), closing)


@pytest.fixture
def half(monkeypatch):
    judge_by(monkeypatch, about_half)


def photographed(monkeypatch, folder, pictures, work):
    """Does `work`, and copies `folder` before each change of the disk: this is what a kill at that moment leaves."""
    main, busy, taken = threading.get_ident(), [False], []

    def watched(function):
        def call(*words, **options):
            if threading.get_ident() == main and not busy[0]:
                busy[0] = True
                taken.append(pictures / str(len(taken)))
                if folder.exists():
                    shutil.copytree(folder, taken[-1])
                else:
                    pictures.joinpath(str(len(taken) - 1)).mkdir(parents=True)
                busy[0] = False
            return function(*words, **options)

        return call

    with monkeypatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, watched(getattr(os, name)))
        work()
    return taken


def decided(monkeypatch, promote):
    """The gate's answer is given; all that it measures is measured."""
    monkeypatch.setattr("eco.improvement.loop.decide", lambda *given: replace(decide(*given), promote=promote))
    monkeypatch.setattr("eco.improvement.loop.as_control", lambda decision, *_: decision)


def test_killed_at_any_moment_of_a_round_the_next_start_makes_the_same(bench, half, tmp_path, monkeypatch):
    for kept in (True, False):
        decided(monkeypatch, kept)
        folder = tmp_path / f"whole-{kept}"
        loop = bench.run(folder, rounds=1)
        old_weights, before = weights(loop), content(folder)
        pictures = photographed(monkeypatch, folder, tmp_path / f"pictures-{kept}", loop.round)
        after = content(folder)
        assert (before["head.json"]["round"], after["head.json"]["round"]) == (1, 2)
        assert after["rows"].keys() - before["rows"].keys(), "something was admitted"
        assert (after["counts"] != before["counts"]) == kept == (not same_weights(weights(loop), old_weights))
        assert len(pictures) > 20
        for at, picture in enumerate(pictures[:: 1 if kept else 3]):
            again = bench.loop(picture)
            again.begin()
            assert content(picture) == (after if again.head.round == 2 else before), f"before change {at}"
            if at % 9 == 0 and again.head.round == 1:
                again.round()
                assert content(picture) == after, f"before change {at}"
                assert same_weights(weights(again), weights(loop))


def test_killed_before_the_first_round_the_next_start_makes_the_same(bench, half, tmp_path, monkeypatch):
    loop = bench.loop(tmp_path / "whole")
    pictures = photographed(monkeypatch, tmp_path / "whole", tmp_path / "pictures", loop.begin)
    after = content(tmp_path / "whole")
    assert after["rows"]["v0001"] and after["head.json"]["round"] == 0
    for picture in pictures[::6]:
        again = bench.loop(picture)
        again.begin()
        assert content(picture) == after and same_weights(weights(again), weights(loop))


def test_a_planted_regression_is_taken_back_with_its_evidence(bench, half, tmp_path, monkeypatch):
    loop = bench.run(tmp_path / "loop", rounds=0)
    old, counted = weights(loop), loop.store.head
    noise = torch.Generator().manual_seed(0)
    planted(monkeypatch, lambda model: [p.add_(torch.randn(p.shape, generator=noise)) for p in model.parameters()])
    decision = loop.round()
    assert not decision.promote and "bits per byte" in decision.reason
    assert same_weights(weights(loop), old) and loop.store.head == counted
    assert (loop.head.round, loop.head.weights, loop.head.rejected) == (1, 0, 1)
    (written,) = loop.decisions.read()
    assert written["promoted"] is False and written["reason"] == decision.reason
    assert written["after"]["bits_per_byte"] > 1.5 * written["before"]["bits_per_byte"]
    assert loop.store.versions()[-1] == written["store"] and loop.store.outcome(written["store"]) == written
    monkeypatch.undo()
    judge_by(monkeypatch, about_half)
    began = []
    monkeypatch.setattr(type(loop), "_learn", lambda self, *_: began.append(weights(self)) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.round()
    assert same_weights(began[0], old), "the next round starts from the weights before"


@pytest.mark.parametrize("patience", [0, 1, 2])
def test_patience_is_used_up_by_rounds_that_were_taken_back(bench, half, tmp_path, monkeypatch, patience):
    loop = bench.loop(tmp_path / "loop", patience=patience, rounds=9)
    loop.begin()
    planted(monkeypatch, lambda model: [p.mul_(30) for p in model.parameters()])
    loop.round()
    assert loop.head.rejected == 1 and loop.is_done == (patience == 1)


def test_a_planted_improvement_is_kept_and_loaded_again(bench, tmp_path, monkeypatch):
    judge_by(monkeypatch, lambda completion: "return" in completion)
    settings = {"warmup_tasks": 12, "warmup_steps": 1, "gate__samples": 4, "learn__lr": 0.03, "learn__rows": 8}
    loop = bench.loop(tmp_path / "loop", **settings)
    teach = loop.updates.from_rows
    loop.updates.from_round = lambda rows, drawn, round, first: teach(rows, 60, round, first)  # the references
    loop.begin()
    monkeypatch.setattr("eco.improvement.loop.draw", lambda engine, tasks, *_: solved(loop, tasks))
    before, old = loop.pass_at_1, weights(loop)
    decision = loop.round()
    assert decision.promote, decision.reason
    assert loop.pass_at_1 > before + 0.2 and not same_weights(weights(loop), old)
    assert loop.store.head == loop.decisions.read()[-1]["store"] and loop.head.rejected == 0
    again = bench.loop(tmp_path / "loop", **settings)
    again.begin()
    assert same_weights(weights(again), weights(loop))


def solved(loop, tasks):
    return Drawn([[reference(task, loop.student.tokenizer, loop._sandbox)] for task in tasks], tokens=100)


def test_the_real_judge_lets_pass_what_is_right(bench, tmp_path, monkeypatch):
    loop = bench.loop(tmp_path / "loop")
    answering(monkeypatch, loop.suites.pool)
    loop.begin()
    loop.round()
    attempts = [json.loads(line) for line in (tmp_path / "loop/attempts/round_0001.jsonl").read_text().splitlines()]
    assert len(attempts) == 16 and [one["outcome"] == "pass" for one in attempts] == [True, False] * 8
    funnel = loop.store.manifest(loop.store.versions()[-1]).funnel
    assert funnel["drawn"] == 16 and funnel["passed"] == 8 and funnel["duplicate"] >= 4
    state = loop.curriculum.state_dict()["tried"]
    assert [row[1:] for row in state] == [[2.0, 4.0, 1]] * 4


def test_a_passed_canary_stops_the_run_each_time_it_is_tried(bench, tmp_path, monkeypatch):
    judge_by(monkeypatch, about_half)
    loop = bench.run(tmp_path / "loop", rounds=0)
    before, old = content(tmp_path / "loop")["head.json"], weights(loop)
    judge_by(monkeypatch, about_half, canaries=True)
    for _ in range(2):
        with pytest.raises(CanaryPassed, match=r"without a solution was passed.*decisions\.jsonl"):
            loop.round()
        (written,) = loop.decisions.read()
        assert written["stop"] is True and written["promoted"] is False
        assert next(c for c in written["checks"] if c["name"] == "canaries")["evidence"]["passed"] > 0
        assert same_weights(weights(loop), old) and content(tmp_path / "loop")["head.json"] == before
        found = (tmp_path / "loop/attempts/canaries_0001.jsonl").read_text().splitlines()
        assert all(json.loads(line)["task"].startswith("canary/") for line in found) and found
        loop = bench.loop(tmp_path / "loop")
        loop.begin()


def test_a_canary_that_passes_before_the_first_round_leaves_no_start(bench, tmp_path, monkeypatch):
    judge_by(monkeypatch, about_half, canaries=True)
    with pytest.raises(CanaryPassed):
        bench.loop(tmp_path / "loop").begin()
    assert not (tmp_path / "loop/head.json").exists()


def test_where_nothing_passes_nothing_is_learnt(bench, tmp_path, monkeypatch):
    judge_by(monkeypatch, about_half)
    decided(monkeypatch, True)
    loop = bench.run(tmp_path / "loop", rounds=0, warmup_tasks=0, warmup_steps=0)
    judge_by(monkeypatch, lambda completion: False)
    before, old = content(tmp_path / "loop"), weights(loop)
    with pytest.raises(NothingPasses, match=r"none of 16 attempts at synthesis:1 passed \(16 fail\).*synthesis:1"):
        loop.round()
    assert content(tmp_path / "loop") == before and same_weights(weights(loop), old)
    judge_by(monkeypatch, about_half)
    loop.round()
    other = bench.run(tmp_path / "other", rounds=0, warmup_tasks=0, warmup_steps=0)
    other.round()
    assert content(tmp_path / "loop") == content(tmp_path / "other"), "what was tried in vain has left no trace"
    assert same_weights(weights(loop), weights(other)) and not same_weights(weights(loop), old)


def test_an_unusable_sandbox_is_no_verdict_about_the_model(bench, tmp_path, monkeypatch):
    judge_by(monkeypatch, about_half)
    loop = bench.run(tmp_path / "loop", rounds=0)
    monkeypatch.setattr(ProgramTask, "examine", lambda *_: Verdict("infrastructure", 0.0, "no process could be made"))
    with pytest.raises(NothingPasses, match="could judge none of the attempts: no process could be made"):
        loop.round()


@pytest.mark.parametrize("place", ["eco.training.checkpoint.save_file", "os.replace", "os.rename", "os.mkdir"])
def test_a_full_disk_ends_the_round_and_a_later_one_is_the_same(bench, half, tmp_path, monkeypatch, place):
    decided(monkeypatch, True)
    loop = bench.run(tmp_path / "loop", rounds=0)
    before, old = content(tmp_path / "loop"), weights(loop)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        with pytest.raises(OSError, match=r"No space left|the disk is full"):
            loop.round()
    assert content(tmp_path / "loop")["head.json"] == before["head.json"] and same_weights(weights(loop), old)
    assert loop.store.head == before["counts"]
    loop.round()
    whole = bench.run(tmp_path / "whole", rounds=1)
    assert content(tmp_path / "loop") == content(tmp_path / "whole")
    assert same_weights(weights(loop), weights(whole))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("head.json", b"{", r"head\.json is damaged.*move its folder aside"),
        ("head.json", b'{"rund": 1}', r"head\.json is damaged"),
        ("decisions.jsonl", b"{}\n{}\n", r"decisions\.jsonl, line 1 is damaged"),
        ("store/HEAD.json", b"{}", "store rollback"),
        ("store/v0001/rows.jsonl", b"", "store rollback"),
        ("checkpoints/step_00000000/model.safetensors", b"", "step_00000000 is damaged"),
    ],
)
def test_what_is_damaged_is_named(bench, half, tmp_path, file, damage, message):
    decided_loop = bench.run(tmp_path / "loop", rounds=0)
    decided_loop.decisions.append({"round": 0})
    (tmp_path / "loop" / file).write_bytes(damage)
    with pytest.raises(ValueError, match=message):
        bench.run(tmp_path / "loop", rounds=1)


@pytest.mark.parametrize(
    "settings",
    [
        {"objective__name": "grpo"},
        {"objective__name": "igrpo"},
        {"objective__name": "mix"},
        {"objective__name": "grpo", "learn__backend": "trl"},
        {"max_retries": 2},
        {"labels": "majority"},
        {"labels": "majority", "objective__name": "dr_grpo"},
        {"objective__name": "dapo", "control": "random-reward"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_each_way_of_learning_makes_a_round(bench, tmp_path, monkeypatch, settings):
    if "trl" in settings.values():
        pytest.importorskip("trl")
    decided(monkeypatch, True)
    loop = bench.loop(tmp_path / "loop", **settings)
    if settings.get("max_retries"):
        judge_by(monkeypatch, lambda completion: zlib.crc32(completion.encode()) % 9 == 0)
    elif "labels" in settings:
        answering(monkeypatch, loop.suites.pool, share=2)
    else:
        judge_by(monkeypatch, about_half)
    loop.begin()
    old = weights(loop)
    loop.round()
    assert not same_weights(weights(loop), old)
    (written,) = loop.decisions.read()
    assert written["update"] and loop.head.sampled_tokens > 0 and loop.head.trained_tokens > 0
    own = loop.store.own_rows(written["store"])
    assert {row.tier for row in own} == {"B" if "majority" in settings.values() or "control" in settings else "A"}
    assert {row.source for row in own} == {"model"}
    if settings.get("max_retries"):
        lines = (tmp_path / "loop/attempts/round_0001.jsonl").read_text().splitlines()
        shown = {one["retry"]: "An earlier answer:" in one["prompt"] for one in map(json.loads, lines)}
        assert shown == {0: False, 1: True, 2: True}
    assert not list((tmp_path / "loop").glob(".*"))


def test_random_rewards_keep_the_number_of_passes_and_not_which(bench, tmp_path, monkeypatch, half):
    found = {}
    for control in ("none", "random-reward"):
        bench.run(tmp_path / control, rounds=1, control=control, tasks_per_round=8)
        lines = (tmp_path / control / "attempts/round_0001.jsonl").read_text().splitlines()
        found[control] = [json.loads(line) for line in lines]
    chance = bench.loop(tmp_path / "random-reward").store
    assert {row.tier for row in chance.own_rows(chance.versions()[-1])} == {"B"}
    texts = [[one["completion"] for one in found[control]] for control in found]
    outcomes = [[one["outcome"] for one in found[control]] for control in found]
    assert texts[0] == texts[1] and sorted(outcomes[0]) == sorted(outcomes[1]) and outcomes[0] != outcomes[1]


def test_a_control_goes_on_where_nothing_passes(bench, tmp_path, monkeypatch):
    judge_by(monkeypatch, lambda completion: "return" in completion and len(completion) > 30)
    for control in ("random-reward", "frozen", "more-pretraining"):
        loop = bench.run(tmp_path / control, rounds=1, control=control)
        assert loop.head.round == 1 and not loop.is_done
        assert loop.head.weights == (1 if loop.decisions.read()[0]["promoted"] else 0)


@pytest.mark.parametrize("objective", ["expert", "grpo"])
def test_more_pretraining_learns_as_much_and_nothing_that_a_model_wrote(bench, tmp_path, monkeypatch, half, objective):
    method = bench.run(tmp_path / "method", rounds=1, objective__name=objective)
    seen = []
    training_rows_of = store_draw.training_rows

    def watched(rows, *words, **options):
        seen.extend(rows)
        return training_rows_of(rows, *words, **options)

    monkeypatch.setattr("eco.improvement.update.training_rows", watched)
    monkeypatch.setattr("eco.improvement.loop.draw", lambda *_: pytest.fail("it samples nothing"))
    control = bench.loop(tmp_path / "control", objective__name=objective, control="more-pretraining")
    control.begin()
    begun = control.head.trained_tokens
    control.round()
    assert {row.source for row in seen} == {"reference"} and control.store.versions() == ["v0001"]
    spent = method.head.sampled_tokens + method.head.trained_tokens - begun
    assert control.head.trained_tokens - begun >= spent > 0
    assert not (tmp_path / "control/attempts/round_0001.jsonl").exists()


@pytest.mark.parametrize("backend", ["internal", "trl"])
@pytest.mark.parametrize("objective", ["expert", "grpo"])
def test_frozen_changes_no_bit(bench, tmp_path, half, objective, backend):
    settings = {"objective__name": objective, "learn__backend": backend, "control": "frozen"}
    loop = bench.run(tmp_path / "loop", rounds=0, **settings)
    old = weights(loop)
    decision = loop.round()
    assert same_weights(weights(loop), old)
    assert next(c for c in decision.checks if c.name.startswith("gain")).evidence["gain"] == 0
    assert loop.head.sampled_tokens > 0, "it draws like the others"


def test_trl_is_missed_before_anything_is_drawn(bench, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    monkeypatch.delitem(sys.modules, "eco.improvement.learn.trl", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'eco-lm\[hf\]'"):
        bench.loop(tmp_path / "loop", objective__name="grpo", learn__backend="trl")
    bench.loop(tmp_path / "loop", learn__backend="trl")  # expert iteration asks for no TRL


def test_figures_that_are_no_numbers_are_recorded(bench, half, tmp_path, monkeypatch):
    loop = bench.run(tmp_path / "loop", rounds=0)
    figures = {"learn_corpus": float("nan"), "learn_examples": torch.tensor(float("inf"))}

    def diverge(rows, drawn, round, first):
        with torch.no_grad():
            next(loop.student.model.parameters()).fill_(float("nan"))
        return Update(figures, 10, 1)

    loop.updates.from_round = diverge
    old = weights(loop)
    assert not loop.round().promote
    (written,) = loop.decisions.read()
    assert written["update"] == {"learn_corpus": None, "learn_examples": None}
    assert loop.store.outcome(written["store"]) == written
    assert same_weights(weights(loop), old)


def test_a_round_leaves_global_random_numbers_alone(bench, half, tmp_path):
    loop = bench.run(tmp_path / "loop", rounds=0)
    torch.manual_seed(7)
    random.seed(7)
    expected = (torch.rand(3).tolist(), random.random())
    torch.manual_seed(7)
    random.seed(7)
    loop.round()
    assert (torch.rand(3).tolist(), random.random()) == expected


def test_arms_share_what_stands_before_the_first_round(bench, half, tmp_path, monkeypatch):
    decided(monkeypatch, True)
    for warmup in (4, 0):
        settings = {"warmup_tasks": warmup, "warmup_steps": 2 * (warmup > 0)}
        first, second = tmp_path / f"first-{warmup}", tmp_path / f"second-{warmup}"
        one = bench.run(first, rounds=1, **settings)
        copy_start(first, second)
        other = bench.loop(second, control="more-pretraining", **settings)
        other.begin()
        assert (first / "start.json").read_bytes() == (second / "start.json").read_bytes()
        assert [row.source for row in other.store.rows()] == ["reference"] * len(other.store.rows())
        assert bool(other.store.rows()) == (warmup > 0) and one.store.head != EMPTY
        assert not same_weights(weights(other), weights(one))


def test_a_start_fits_an_arm_that_learns_otherwise(bench, half, tmp_path):
    bench.run(tmp_path / "control", rounds=0, objective__name="mix", control="more-pretraining")
    copy_start(tmp_path / "control", tmp_path / "method")
    copied = bench.run(tmp_path / "method", rounds=1, objective__name="mix")
    own = bench.run(tmp_path / "own", rounds=1, objective__name="mix")
    assert same_weights(weights(copied), weights(own)) and copied.head.learner == own.head.learner
