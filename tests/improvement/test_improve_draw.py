"""What a round draws, and what its settings must have in common."""

import pytest

from eco.improvement import draw as drawing
from eco.improvement.attempt import Attempt
from eco.improvement.config import ImproveConfig
from eco.inference.completion import Completion
from eco.tasks.sets import open_tasks
from eco.tasks.verdict import Verdict


@pytest.mark.parametrize("control", ["none", "random-reward"])
def test_the_draft_that_is_shown_is_the_best_only_where_rewards_are_true(monkeypatch, control):
    tasks = open_tasks("arithmetic", "train", 20)
    right = {"right": Verdict("pass", 1.0), "wrong": Verdict("fail", 0.0)}
    drafts = [[Attempt(t, t.prompt, Completion(said, [1], [2], [], "eos"), right[said]) for said in ("wrong", "right")]
              for t in tasks]  # fmt: skip
    given = []
    monkeypatch.setattr(drawing, "attempt", lambda *_: drafts)
    monkeypatch.setattr(drawing, "refine", lambda engine, groups, *_: given.extend(groups) or drafts)
    config = ImproveConfig.model_validate({"objective": {"name": "igrpo"}, "control": control, "samples": 2})
    drawing.draw(None, tasks, None, config, 1)
    passed = [a.completion.text for group in given for a in group if a.passed]
    assert len(passed) == 20 and (set(passed) == {"right"}) == (control == "none")


@pytest.mark.parametrize("settings", [{"warmup_tasks": 5}, {"warmup_steps": 5}])
def test_a_warm_up_takes_tasks_and_steps(settings):
    with pytest.raises(ValueError, match="a warm-up takes both"):
        ImproveConfig.model_validate(settings)
