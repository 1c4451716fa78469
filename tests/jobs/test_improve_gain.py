"""The claim of the loop, in full: three seeds of the method beside its controls, on a model of some minutes."""

import json
import os
import subprocess
import sys
import time

import pytest

from eco.commands.improve import verdict
from eco.improvement.arms import gain, gain_over, read_arms
from eco.improvement.decisions import read_decisions

SEEDS = (0, 1, 2)
LARGER = ("--improve.gate.held_out_tasks", 200)
"""The recipe's own 150 keep the demo short."""


def eco(*words):
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    return subprocess.run([sys.executable, "-m", "eco", *map(str, words)], env=environment, check=True)


def told(arm):
    figures = {"seconds": round(arm.seconds), "before": arm.pass_at_1("before"), "after": arm.pass_at_1("after")}
    return f"{arm.control} seed {arm.seed}: {gain([arm])} {json.dumps(figures)}"


@pytest.mark.slow
def test_the_gain_over_the_controls(tmp_path, capsys):
    """Half an hour on two cores; each arm at most ten minutes, its start included."""
    run = tmp_path / "demo"
    eco("train", "demo", "--output-dir", run, "--train.minutes", 20, "--quiet")
    for seed in SEEDS:
        start = time.monotonic()
        eco("improve", run, "--improve-seed", seed, *LARGER)
        assert time.monotonic() - start < 600
        for control in ("random-reward", "more-pretraining", "frozen"):
            eco("improve", run, "--improve-seed", seed, *LARGER, "--control", control)
    arms = read_arms(run)
    method, chance, more = (
        [arm for arm in arms if arm.control == control] for control in ("none", "random-reward", "more-pretraining")
    )
    with capsys.disabled():
        sys.stdout.write("\n".join(["", *map(told, arms), *verdict(arms), ""]))
    assert len(method) == len(chance) == len(more) == len(SEEDS)
    assert gain_over(method, more).value >= 0.15
    assert gain(chance).low <= 0 <= gain(chance).high
    for arm in arms:
        for row in read_decisions(arm.folder / "decisions.jsonl"):
            canaries = next(check for check in row["checks"] if check["name"] == "canaries")
            assert canaries["evidence"]["passed"] == 0
