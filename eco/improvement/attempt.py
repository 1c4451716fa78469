"""A completion of a task that was run and judged: what every part of the loop hands to the next."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eco.data.tokenizer import Tokenizer
from eco.files import replacing
from eco.inference.completion import Completion
from eco.sandbox import Sandbox
from eco.tasks.contract import Task
from eco.tasks.verdict import Verdict


@dataclass(frozen=True)
class Attempt:
    """prompt: what the model continued; the task's own, or in a retry one that also shows the failed answer's error.

    retry: 0 for a first answer, n for the n-th after an error was shown.
    """

    task: Task
    prompt: str
    completion: Completion
    verdict: Verdict
    retry: int = 0

    @property
    def passed(self) -> bool:
        return self.verdict.outcome == "pass"

    @property
    def judged(self) -> bool:
        """False: the check could not be done, which is neither a success nor a failure."""
        return self.verdict.outcome != "infrastructure"


Group = Sequence[Attempt]
"""The attempts of one task."""


def reference(task: Task, tokenizer: Tokenizer, sandbox: Sandbox) -> Attempt:
    """The solution that came with a task, judged like any other attempt."""
    text = task.solution()
    completion = Completion(text, tokenizer.encode(task.prompt), tokenizer.encode(text), [], "eos")
    return Attempt(task, task.prompt, completion, task.check(text, sandbox))


def write_attempts(path: Path, attempts: Sequence[Attempt]) -> None:
    """What was tried and what came of it, a line of JSON each, for people who want to see."""
    with replacing(path) as file:
        for one in attempts:
            row = {"task": one.task.name, "retry": one.retry, "prompt": one.prompt, "completion": one.completion.text}
            verdict = {"outcome": one.verdict.outcome, "score": one.verdict.score, "detail": one.verdict.detail}
            file.write(json.dumps(row | verdict) + "\n")
