"""What the tests of the loop share: a tiny model with a loop around it, a cheap judge, and what a folder comes to."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import replace
from pathlib import Path

import torch
from small_run import TINY

from eco import flags
from eco import recipe as recipes
from eco.data.tokenizer import TokenizerConfig
from eco.improvement.config import ImproveConfig
from eco.improvement.learn.expert import Update
from eco.improvement.learn.student import Student
from eco.improvement.loop import Loop
from eco.improvement.store.versions import VerifiedStore
from eco.improvement.suites import Suites, open_suites
from eco.inference.engine import Engine
from eco.jobs.language import LanguageWork, language_model
from eco.sandbox import Sandbox
from eco.tasks.generate.program import ProgramTask
from eco.tasks.verdict import Verdict
from eco.training.precision import Precision

CPU = torch.device("cpu")
FP32 = Precision("fp32", CPU)

SMALL = {
    "improve.pool": 24,
    "improve.warmup_tasks": 4,
    "improve.warmup_steps": 2,
    "improve.tasks_per_round": 4,
    "improve.samples": 4,
    "improve.max_new_tokens": 10,
    "improve.rounds": 2,
    "improve.learn.steps": 2,
    "improve.learn.rows": 4,
    "improve.learn.lr": 0.003,
    "improve.gate.held_out_tasks": 4,
    "improve.gate.samples": 2,
    "improve.gate.canaries": 2,
}

SUMS = {
    "improve.tasks": "arithmetic:1",
    "improve.pool": 120,
    "improve.warmup_tasks": 60,
    "improve.warmup_steps": 20,
    "improve.tasks_per_round": 16,
    "improve.samples": 4,
    "improve.max_new_tokens": 4,
    "improve.rounds": 2,
    "improve.learn.steps": 4,
    "improve.learn.rows": 16,
    "improve.learn.lr": 0.03,
    "improve.gate.held_out_tasks": 20,
    "improve.gate.samples": 2,
    "improve.gate.canaries": 2,
    "improve.gate.confidence": 0.5,
}
"""Answers are single figures: what has learnt to say one is right now and then."""


def write_recipe(path: Path, corpus: Path) -> str:
    """A recipe whose model has room for the prompts of synthesis:1."""
    path.write_text(TINY.replace("context: 32", "context: 400") + f"data: {{paths: ['{corpus}'], held_out: 0.2}}\n")
    return str(path)


class Bench:
    """Makes loops on the same untrained model; `loop` opens or goes on with a folder, in a model of its own."""

    def __init__(self, recipe: str, closing: ExitStack) -> None:
        self.sandbox = closing.enter_context(Sandbox())
        self._name = recipe
        self._work = LanguageWork(recipes.load(recipe), TokenizerConfig(vocab_size=320), CPU, lambda text: None)
        self._suites: dict[tuple, Suites] = {}

    def loop(self, folder: Path, **settings) -> Loop:
        given = {f"improve.{name.replace('__', '.')}": value for name, value in settings.items()}
        recipe = recipes.load(self._name, flags.from_mapping(SMALL | given))
        work = copy(self._work)  # whose measurements are of its own model
        work.model = language_model(recipe, work.tokenizer, CPU)
        student = Student(
            model=work.model,
            tokenizer=work.tokenizer,
            precision=FP32,
            optimizer=recipe.optimizer,
            corpus=lambda index, count: work.batch(1 << 32 | index, count),
            held_out=lambda: work.measure(4, FP32),
            rebuild=lambda: language_model(recipe, work.tokenizer, CPU),
        )
        said: list[str] = []
        loop = Loop(recipe.improve, student, self.suites(recipe.improve), self.sandbox, folder, said.append)
        loop.said = said
        return loop

    def suites(self, config: ImproveConfig) -> Suites:
        key = (config.tasks, config.domains, config.pool, config.warmup_tasks, config.seed, config.gate)
        if key not in self._suites:
            self._suites[key] = open_suites(config, self._work.tokenizer, self._work.model.config.context)
        return self._suites[key]

    def run(self, folder: Path, rounds: int = 2, **settings) -> Loop:
        loop = self.loop(folder, **settings)
        loop.begin()
        while loop.head.round < rounds:
            loop.round()
        return loop


def judge_by(monkeypatch, passes: Callable[[str], bool], *, canaries: bool = False) -> None:
    """Programs are not run: a completion passes by its text."""

    def examine(task, completion, sandbox):
        ok = passes(completion) and (canaries or not task.name.startswith("canary/"))
        return Verdict("pass", 1.0) if ok else Verdict("fail", 0.0, "wrong")

    monkeypatch.setattr(ProgramTask, "examine", examine)


def about_half(completion: str) -> bool:
    return len(completion) % 2 == 0


def answering(monkeypatch, tasks: Sequence, share: int = 2) -> None:
    """Every `share`-th sample of the engine is the solution of its task."""
    solutions = {task.prompt: task.solution() for task in tasks}
    drawn = Engine.generate

    def generate(self, prompts, sampling, samples=1):
        rows = drawn(self, prompts, sampling, samples)
        return [[self_taught(self, prompt, c) if n % share == 0 else c for n, c in enumerate(row)]
                for prompt, row in zip(prompts, rows, strict=True)]  # fmt: skip

    def self_taught(engine, prompt, completion):
        if prompt not in solutions:
            return completion
        tokens = [*engine.tokenizer.encode(solutions[prompt]), engine.tokenizer.eos]
        return replace(completion, text=solutions[prompt], tokens=tokens, logprobs=[-1.0] * len(tokens), finish="eos")

    monkeypatch.setattr(Engine, "generate", generate)


def planted(monkeypatch, change: Callable[[torch.nn.Module], None]) -> None:
    """In place of each update the weights are changed by `change`."""

    def from_round(self, rows, drawn, round, corpus_first):
        with torch.no_grad():
            change(self.student.model)
        return Update({}, 10, 1)

    monkeypatch.setattr("eco.improvement.update.Updates.from_round", from_round)


def weights(loop: Loop) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in loop.student.model.state_dict().items()}


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def content(folder: Path) -> dict:
    """All that a folder of the loop says, without times: the head, the decisions, the rows that were stored."""
    store = VerifiedStore(folder / "store")
    heads = {name: json.loads((folder / name).read_text()) for name in ("start.json", "head.json")}
    for head in heads.values():
        head.pop("seconds")
    return heads | {
        "decisions": (folder / "decisions.jsonl").read_text() if (folder / "decisions.jsonl").exists() else "",
        "counts": store.head,
        "rows": {v: [row.line() for row in store.own_rows(v)] for v in store.versions()},
        "outcomes": {v: store.outcome(v) for v in store.versions()},
        "checkpoints": sorted(path.name for path in (folder / "checkpoints").glob("step_*")),
    }
