"""Completions are drawn, judged over the pool and counted: with cribs that know the answers, and stand-in walls."""

import threading
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from eco.evaluation.tasks import Sample, TaskSettings, draw_and_check, has_room, summarize
from eco.inference.completion import Completion
from eco.inference.engine import Engine
from eco.tasks.contract import Task
from eco.tasks.verdict import Verdict


class Echo(Task):
    """Passes where the completion is the task's name. gate: passed by as many checks as run side by side."""

    def __init__(self, name, stop=(), prompt=None, gate=None):
        self.name, self.stop, self.prompt, self.gate = name, stop, prompt or f"{name}?", gate

    def examine(self, completion, sandbox):
        if self.gate:
            self.gate.wait(timeout=10)
        if completion in ("timeout", "memory", "crash", "tamper", "infrastructure"):
            return Verdict(completion, 0.0, "the wall fell over")
        return Verdict("pass", 1.0) if completion == self.name else Verdict("fail", 0.5)

    def solution(self):
        return self.name


class Crib(Engine):
    """Answers each prompt by what `answers` says for it, one text after the other; notes how it was asked."""

    def __init__(self, answers, context=100):
        model = SimpleNamespace(config=SimpleNamespace(context=context))
        super().__init__(model, SimpleNamespace(encode=list))
        self.answers, self.asked = answers, []

    def generate(self, prompts, sampling, samples=1):
        self.asked.append((list(prompts), sampling, samples))
        return [
            [Completion(self.answers[prompt][sample], [], [], [], "eos") for sample in range(samples)]
            for prompt in prompts
        ]


WALLS = SimpleNamespace(workers=2)


def measured(answers, tasks=None, **settings):
    """answers: for each task a list of completions, of equal length."""
    tasks = tasks or [Echo(name) for name in answers]
    samples = len(next(iter(answers.values())))
    crib = Crib({task.prompt: answers[task.name] for task in tasks})
    return draw_and_check(crib, tasks, WALLS, TaskSettings(tasks="x", samples=samples, **settings)), crib


def judged(*outcomes):
    task = Echo("t")
    score = {"pass": 1.0}
    done = Completion("", [], [], [], "eos")
    return [Sample(task, done, Verdict(outcome, score.get(outcome, 0.0), "why")) for outcome in outcomes]


def test_who_knows_all_answers_passes_all_and_who_says_nothing_none():
    names = ["a", "b", "c"]
    knowing, _ = measured({name: [name, name] for name in names})
    silent, _ = measured({name: ["", "  \n"] for name in names})
    assert summarize(knowing, [1, 2], 0)["pass_at"]["2"] == {"value": 1.0, "low": 1.0, "high": 1.0, "tasks": 3}
    assert summarize(silent, [1, 2], 0)["pass_at"]["2"] == {"value": 0.0, "low": 0.0, "high": 0.0, "tasks": 3}
    assert summarize(silent, [1], 0)["outcomes"] == {"fail": 1.0}


def test_each_completion_is_judged_by_its_own_task_in_order():
    samples, _ = measured({"a": ["a", "b", "timeout"], "b": ["b", "b", "a"]})
    assert [[sample.verdict.outcome for sample in row] for row in samples] == [
        ["pass", "fail", "timeout"],
        ["pass", "pass", "fail"],
    ]
    assert [[sample.completion.text for sample in row] for row in samples] == [["a", "b", "timeout"], ["b", "b", "a"]]
    report = summarize(samples, [1, 2], 0)
    assert (report["tasks"], report["samples"]) == (2, 6)
    assert report["outcomes"] == {
        "pass": pytest.approx(0.5),
        "fail": pytest.approx(1 / 3),
        "timeout": pytest.approx(1 / 6),
    }
    assert report["pass_at"]["1"]["value"] == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert report["pass_at"]["2"]["value"] == pytest.approx((2 / 3 + 1) / 2)
    assert report["score"] == pytest.approx((3 + 2 * 0.5) / 6)


def test_checks_run_side_by_side():
    gate = threading.Barrier(2)
    samples, _ = measured({"a": ["a", "a"]}, [Echo("a", gate=gate)])
    assert [sample.verdict.outcome for sample in samples[0]] == ["pass", "pass"]


def test_tasks_with_the_same_stops_are_drawn_together_with_those_of_the_user():
    tasks = [Echo("a", ("\ndef",)), Echo("b"), Echo("c", ("\ndef",))]
    samples, crib = measured({"a": ["a"], "b": ["b"], "c": ["c"]}, tasks, stop=("#",), seed=4, temperature=0.5)
    assert [(prompts, sampling.stop) for prompts, sampling, _ in crib.asked] == [
        (["a?", "c?"], ("#", "\ndef")),
        (["b?"], ("#",)),
    ]
    assert {(sampling.seed, sampling.temperature) for _, sampling, _ in crib.asked} == {(4, 0.5)}
    assert [row[0].task.name for row in samples] == ["a", "b", "c"]
    assert all(row[0].verdict.outcome == "pass" for row in samples)


def test_many_completions_are_drawn_in_several_batches():
    names = [f"t{number}" for number in range(7)]
    samples, crib = measured({name: [name] * 200 for name in names})
    assert [len(prompts) for prompts, _, _ in crib.asked] == [2, 2, 2, 1]
    assert summarize(samples, [1], 0)["samples"] == 1400


def test_a_prompt_that_fills_the_context_is_a_failure_that_is_told():
    tasks = [Echo("a"), Echo("b", prompt="b" * 10)]
    crib = Crib({"a?": ["a", "a"]}, context=10)
    assert [has_room(crib, task) for task in tasks] == [True, False]
    samples = draw_and_check(crib, tasks, WALLS, TaskSettings(tasks="x", samples=2))
    assert [sample.completion for sample in samples[1]] == [None, None]
    assert "fills the model's context" in samples[1][0].verdict.detail
    report = summarize(samples, [1], 0)
    assert (report["pass_at"]["1"]["value"], report["no_room"], report["samples"]) == (0.5, 1, 4)


def test_what_the_walls_could_not_judge_counts_neither_way():
    good, half, bad = (
        judged("pass", "fail"),
        judged("pass", "infrastructure"),
        judged("infrastructure", "infrastructure"),
    )
    report = summarize([good, half, bad], [1, 2], 0)
    assert report["pass_at"]["1"]["value"] == pytest.approx((0.5 + 1) / 2)
    assert report["pass_at"]["2"] == {"value": 1.0, "low": 1.0, "high": 1.0, "tasks": 1}
    assert report["outcomes"] == pytest.approx({"pass": 2 / 3, "fail": 1 / 3})
    assert (report["tasks"], report["samples"], report["infrastructure"], report["not_judged"]) == (2, 3, 3, ["t"])


def test_nothing_judged_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="there is nothing to report: why"):
        summarize([judged("infrastructure"), judged("infrastructure")], [1], 0)
    with pytest.raises(ValueError, match="nothing to report"):
        summarize([], [1], 0)
    with pytest.raises(ValueError, match="no task has 2 completions"):
        summarize([judged("pass", "infrastructure")], [1, 2], 0)


def test_an_error_of_a_check_comes_through_and_queued_checks_are_dropped():
    class Broken(Echo):
        def examine(self, completion, sandbox):
            raise RuntimeError("a bug in the task")

    with pytest.raises(RuntimeError, match="a bug in the task"):
        measured({"a": ["a"]}, [Broken("a")])


def test_settings():
    settings = TaskSettings(tasks="humaneval, synthesis:2", k=(10, 1), samples=10, lm_eval="a,b")
    settings.check()
    assert (settings.sets, settings.ks, settings.harness) == (["humaneval", "synthesis:2"], [1, 10], ["a", "b"])
    assert TaskSettings(tasks="mbpp", k=1).ks == TaskSettings(tasks="mbpp").ks == [1]
    TaskSettings(lm_eval="a", count=4, samples=1).check()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({}, "on which tasks"),
        ({"tasks": "mbpp,mbpp"}, "names a set twice"),
        ({"tasks": "mbpp,"}, "'' is no set"),
        ({"tasks": "mbpp", "k": "1,10", "samples": 9}, "pass@10 cannot be told from 9 samples"),
        ({"tasks": "mbpp", "k": "0"}, "no list of whole numbers above 0"),
        ({"tasks": "mbpp", "k": "1;2"}, "no list of whole numbers above 0"),
        ({"tasks": "mbpp", "temperature": 0, "samples": 2}, "would be the same"),
        ({"lm_eval": "a", "samples": 4, "k": "1,4"}, "^--samples --k would change nothing"),
        (
            {"lm_eval": "a", "temperature": 0.0, "out": "out.jsonl"},
            "^--temperature --out would",
        ),
        ({"lm_eval": "a", "seed": 1}, "^--seed would change nothing: of --lm-eval only --count does"),
        ({"lm_eval": "a", "sandbox": "weak"}, "^--sandbox would"),
        ({"lm_eval": "a", "max_new_tokens": 9}, "^--max-new-tokens would"),
    ],
)
def test_settings_that_cannot_be_measured(wrong, told):
    with pytest.raises(ValueError, match=told):
        TaskSettings(**wrong).check()


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"count": -1}, {"sandbox": "strong"}, {"smaples": 3}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ValidationError):
        TaskSettings(tasks="mbpp", **wrong)
