"""A completion of a task that was run and judged: what every part of the loop hands to the next."""

from collections.abc import Sequence
from dataclasses import dataclass

from eco.inference.completion import Completion
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
