"""What the tests of the store share: rows, facts and attempts without a model."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eco.improvement.attempt import Attempt
from eco.improvement.store.admission import Origin
from eco.improvement.store.manifest import Facts
from eco.improvement.store.row import Row, row_id
from eco.inference.completion import Completion
from eco.sandbox import Sandbox
from eco.tasks.contract import Task
from eco.tasks.verdict import Verdict

ORIGIN = Origin(round=1, model="m" * 64, sampling={"temperature": 1.0, "seed": 3})


def row(number: int, task: str = "set:1/a", round: int = 1) -> Row:
    return Row(
        id=row_id(f"shape {number}", task),
        task=task,
        prompt="def solve(x):\n",
        completion=f"    return x + {number}\n",
        source="model",
        tier="A",
        retry=0,
        round=round,
        outcome="pass",
        score=1.0,
        sampling={"seed": 3, "temperature": 1.0},
        model="m" * 64,
        tests="t" * 64,
    )


def facts(round: int = 1, removed: Sequence[str] = ()) -> Facts:
    funnel = {"drawn": 8, "judged": 8, "passed": 2, "admitted": 2}
    return Facts(round, "m" * 64, "t" * 64, "c" * 64, {"improve": 0}, funnel, tuple(removed))


@dataclass(frozen=True)
class Given(Task):
    """A task that is never checked."""

    name: str
    prompt: str
    reference: str = "    return 0\n"

    def examine(self, completion: str, sandbox: Sandbox) -> Verdict:
        raise AssertionError("the store judges nothing")

    def solution(self) -> str:
        return self.reference


def tried(task: Task, text: str, outcome: Any = "pass") -> Attempt:
    return Attempt(task, task.prompt, Completion(text, [], [], [], "stop"), Verdict(outcome, float(outcome == "pass")))


def renamed(source: str) -> str:
    """The program with other names for its parameters, variables and functions, and without docstrings."""
    tree = ast.parse(source)
    nodes = [*ast.walk(tree)]
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        for field in ("id", "arg", "name"):
            if getattr(node, field, None) in bound:
                setattr(node, field, f"{getattr(node, field)}_2")
    return ast.unparse(tree) + "\n"
