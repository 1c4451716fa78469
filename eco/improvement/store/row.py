"""A row of the store: a verified answer with everything that says where it came from."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from eco.tasks.contract import Task


@dataclass(frozen=True)
class Row:
    """id: SHA-256 of the program's shape (see `normaliser`; its text, where it is no Python) and of the task's name.

    prompt, completion: what the model continued, and how; together the document to learn.
    source: "model", or "reference" for a solution that came with the task.
    tier: "A" for all hidden tests passed, "B" for a verdict that tests did not give: a majority's, or
        chance's in a control.
    retry, round: which answer to the task, in which round of the loop.
    sampling: how it was drawn, with the seed. model: digest of the weights that drew it. tests: digest of the task
    with all its hidden tests.
    """

    id: str
    task: str
    prompt: str
    completion: str
    source: Literal["model", "reference"]
    tier: Literal["A", "B"]
    retry: int
    round: int
    outcome: str
    score: float
    sampling: Mapping[str, Any]
    model: str
    tests: str

    @property
    def document(self) -> str:
        return self.prompt + self.completion

    def line(self) -> str:
        """One line of JSON in ASCII, the same for equal rows: lone surrogates survive, keys are sorted."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False) + "\n"

    @staticmethod
    def read(line: str | bytes) -> "Row":
        return Row(**json.loads(line))


def row_id(shape: str, task: str) -> str:
    """Equal for two answers to one task that are the same program."""
    return digest(f"{shape}\n{task}")


def task_digest(task: Task) -> str:
    """Changes with whatever the task holds: its prompt, its hidden tests, its solution."""
    return digest(repr((type(task).__name__, sorted(vars(task).items()))))


def digest(text: str) -> str:
    """SHA-256 of any text, lone surrogates included."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
