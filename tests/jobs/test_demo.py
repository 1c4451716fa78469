"""`eco demo` from its first line to its last, on a model that a few seconds make."""

import json
import re

import pytest

from eco.tasks.generate.answer import AnswerTask
from eco.tasks.verdict import Verdict

SMALL = ["--steps", "6", "--d-model", "32", "--n-layers", "1", "--n-heads", "2", "--seq-len", "48", "--batch-size", "2"]
SMALL += ["--tokenizer.vocab_size", "320", "--eval-windows", "2", "--sampling.max_new_tokens", "4", "--prompts", "def "]
SMALL += ["--improve-tasks", "arithmetic:1", "--improve.pool", "100", "--warmup-tasks", "20", "--tasks-per-round", "10"]
SMALL += ["--improve-warmup-steps", "10", "--improve-steps", "3", "--improve.learn.rows", "4", "--rounds", "1"]
SMALL += ["--improve.gate.held_out_tasks", "12", "--improve.gate.samples", "2", "--improve.max_new_tokens", "4"]


@pytest.fixture
def lenient(monkeypatch):
    """A judge that passes about half of what is said, so that a model of a few seconds has something to learn from."""

    def examine(task, completion, sandbox):
        passes = len(completion) % 2 == 0 and not task.name.startswith("canary")
        return Verdict("pass", 1.0) if passes else Verdict("fail", 0.0, "odd")

    monkeypatch.setattr(AnswerTask, "examine", examine)


def test_the_demo_ends_with_pass_at_1_before_after_and_of_the_control(eco, corpus, tmp_path, lenient):
    done = eco("demo", *SMALL, "--data.paths", corpus)
    assert done.returncode == 0, done.stderr
    *_, before, after, control = done.stdout.splitlines()
    for line, words in ((before, "before improving"), (after, "after improving"), (control, "random rewards")):
        assert re.fullmatch(rf"pass@1 .*{words}: [0-9]+\.[0-9] %", line), line
    assert (tmp_path / "runs/demo/improve.png").stat().st_size > 1000

    again = eco("demo", *SMALL, "--data.paths", corpus, "--json")
    figures = json.loads(again.stdout)["improve"]
    assert {arm["control"] for arm in figures["arms"]} == {"none", "random-reward"}
    shown = f"{100 * figures['arms'][0]['pass_at_1_after']:.1f} %"
    assert after.endswith(shown)
