"""How often a language model solves tasks in words: completions are drawn, judged in the sandbox, and counted."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import field_validator

from eco.config import LocalPath, setting
from eco.evaluation.pass_at_k import Checked, mean_pass_at_k
from eco.inference.completion import Completion
from eco.inference.engine import Engine
from eco.inference.sampling import Sampling
from eco.sandbox import Level, Sandbox
from eco.tasks.contract import Task
from eco.tasks.sets import SetName
from eco.tasks.verdict import Verdict

_ROWS = 512
"""Completions drawn at a time; those before are judged meanwhile."""


class TaskSettings(Sampling):
    """The choices of a measurement on tasks, with those of the sampling. The seed also chooses among the tasks."""

    tasks: str = setting("", "Sets of tasks to measure on, NAME[:LEVEL][@PATH], separated by commas.")
    lm_eval: str = setting("", "Tasks of lm-evaluation-harness, names or YAML files, separated by commas.")
    samples: int = setting(1, "Completions of each task.", ge=1)
    k: str = setting("1", "For which k to report pass@k, separated by commas.")
    count: int = setting(0, "Most tasks of a set; 0: all of a published set, 50 of a generated one.", ge=0)
    sandbox: Level | None = setting(None, "How untrusted programs are walled in; None: the best that can be had here.")
    out: LocalPath | None = setting(None, "A file for every completion with its verdict, as JSON lines.")

    @field_validator("k", mode="before")
    @classmethod
    def _as_text(cls, k: Any) -> Any:
        return str(k) if isinstance(k, int) else ",".join(map(str, k)) if isinstance(k, list | tuple) else k

    def check(self) -> None:
        """
        Raises:
            ValueError: what is asked for cannot be measured.
        """
        if not self.sets and not self.harness:
            raise ValueError("on which tasks? name sets of tasks by --tasks, or tasks of lm-eval by --lm-eval")
        idle = [name for name in self.model_dump(exclude_defaults=True) if name not in ("lm_eval", "count")]
        if not self.sets and idle:
            flags = " ".join(f"--{name.replace('_', '-')}" for name in idle)
            raise ValueError(
                f"{flags} would change nothing: of --lm-eval only --count does, as its tasks choose the rest; leave "
                "them out, or name sets of tasks by --tasks"
            )
        if len(set(self.sets)) < len(self.sets):
            raise ValueError(f"--tasks {self.tasks} names a set twice")
        if max(self.ks) > self.samples:
            raise ValueError(
                f"pass@{max(self.ks)} cannot be told from {self.samples} samples of a task; give --samples "
                f"{max(self.ks)} or more"
            )
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"at temperature 0 all {self.samples} samples of a task would be the same; give --samples 1, or a "
                "temperature"
            )

    @property
    def sets(self) -> list[str]:
        """The names, each as it was written."""
        names = [name.strip() for name in self.tasks.split(",")] if self.tasks else []
        for name in names:
            SetName.parse(name)
        return names

    @property
    def harness(self) -> list[str]:
        """The tasks of lm-eval."""
        return [name.strip() for name in self.lm_eval.split(",") if name.strip()]

    @property
    def ks(self) -> list[int]:
        """Each k once, in rising order."""
        if not re.fullmatch(r"\s*[1-9][0-9]{0,8}\s*(,\s*[1-9][0-9]{0,8}\s*)*", self.k):
            raise ValueError(f"--k {self.k} is no list of whole numbers above 0, such as 1,10")
        return sorted({int(number) for number in self.k.split(",")})


@dataclass(frozen=True)
class Question:
    """A task, and the prompt to ask it by: the task's own, or one that tells more."""

    task: Task
    prompt: str


@dataclass(frozen=True)
class Sample:
    """A completion of a task with its verdict. completion: None where the prompt left no room for one."""

    task: Task
    completion: Completion | None
    verdict: Verdict


def has_room(engine: Engine, asked: Task | Question) -> bool:
    """Whether the model's context holds the prompt and a token more."""
    return len(engine.tokenizer.encode(asked.prompt)) < engine.model.config.context


def draw_and_check(
    engine: Engine, tasks: Sequence[Task], sandbox: Sandbox, settings: TaskSettings
) -> list[list[Sample]]:
    """`settings.samples` judged completions of each task, in the order of the tasks; see `ask_and_check`."""
    return ask_and_check(engine, [Question(task, task.prompt) for task in tasks], sandbox, settings, settings.samples)


def ask_and_check(
    engine: Engine, questions: Sequence[Question], sandbox: Sandbox, sampling: Sampling, samples: int
) -> list[list[Sample]]:
    """`samples` judged completions of each question, in the order of the questions; they end at their task's stops too.

    Verdicts are made over the sandbox's pool while the next completions are drawn. A prompt that fills the model's
    context counts as failed: the model cannot do that task. A prompt that is given again counts on as further samples.
    """
    pool = ThreadPoolExecutor(sandbox.workers, "check")
    try:
        pending: list[list[Future[Sample]]] = [[] for _ in questions]
        for index, completion in _completions(engine, questions, sampling, samples):
            pending[index].append(pool.submit(_checked, questions[index].task, completion, sandbox))
        return [[sample.result() for sample in of_question] for of_question in pending]
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl+C the queued ones are not wanted any more


def summarize(samples: Sequence[Sequence[Sample]], ks: Sequence[int], seed: int) -> dict[str, Any]:
    """The figures of a set: the judged completions of each of its tasks -> name -> figure.

    `tasks` and `samples`, how many were judged; `pass_at`, for each k `value`, `low`, `high` (the bootstrap's 95 %
    interval over tasks) and `tasks`, on how many it rests; `score`, the mean score of a completion; `outcomes`, the
    share of each outcome among the judged completions; `no_room`, of how many tasks the prompt alone fills the model's
    context, so that they count as failed. Those that the sandbox could not judge are in none of these:
    `infrastructure` says how many there were, `not_judged` names the tasks that have no other.

    Raises:
        ValueError: nothing was judged, or too little for some k.
    """
    verdicts = [[sample.verdict for sample in of_task] for of_task in samples]
    judged = [[verdict for verdict in of_task if verdict.outcome != "infrastructure"] for of_task in verdicts]
    all_judged = [verdict for of_task in judged for verdict in of_task]
    if not all_judged:
        reason = next((f": {verdict.detail}" for of_task in verdicts for verdict in of_task), "")
        raise ValueError(f"no completion could be judged, so there is nothing to report{reason}")
    checked = [Checked(len(of_task), sum(v.outcome == "pass" for v in of_task)) for of_task in judged if of_task]
    outcomes = Counter(verdict.outcome for verdict in all_judged)
    return {
        "tasks": len(checked),
        "samples": len(all_judged),
        "pass_at": {str(k): mean_pass_at_k(checked, k, seed)._asdict() for k in ks},
        "score": float(np.mean([verdict.score for verdict in all_judged])),
        "outcomes": {outcome: count / len(all_judged) for outcome, count in outcomes.most_common()},
        "no_room": sum(of_task[0].completion is None for of_task in samples),
        "infrastructure": sum(map(len, verdicts)) - len(all_judged),
        "not_judged": [of_task[0].task.name for of_task, ok in zip(samples, judged, strict=True) if not ok],
    }


def _checked(task: Task, completion: Completion | None, sandbox: Sandbox) -> Sample:
    if completion is None:
        return Sample(task, None, Verdict("fail", 0.0, "the prompt fills the model's context"))
    return Sample(task, completion, task.check(completion.text, sandbox))


def _completions(
    engine: Engine, questions: Sequence[Question], sampling: Sampling, samples: int
) -> Iterator[tuple[int, Completion | None]]:
    """Each completion with the number of its question; None for each that there is no room for."""
    by_stop: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for index, asked in enumerate(questions):
        if has_room(engine, asked):
            by_stop.setdefault(sampling.stop + asked.task.stop, {}).setdefault(asked.prompt, []).append(index)
        else:
            yield from [(index, None)] * samples
    together = max(1, _ROWS // samples)
    for stop, by_prompt in by_stop.items():
        stopping = sampling.model_copy(update={"stop": stop})
        prompts = list(by_prompt)
        for first in range(0, len(prompts), together):
            # The engine counts the samples of a prompt within a call: all that ask by it are in one.
            chosen = [index for prompt in prompts[first : first + together] for index in by_prompt[prompt]]
            drawn = engine.generate([questions[index].prompt for index in chosen], stopping, samples)
            for index, completions in zip(chosen, drawn, strict=True):
                yield from ((index, completion) for completion in completions)
