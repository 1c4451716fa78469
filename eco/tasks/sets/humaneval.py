"""HumanEval: functions to be completed from their signature and docstring (Chen et al., 2021, arXiv 2107.03374)."""

from dataclasses import dataclass
from pathlib import Path

from eco.sandbox import Sandbox
from eco.tasks import files, programs
from eco.tasks.contract import Split, Task
from eco.tasks.verdict import Verdict

PUBLISHED = True

_FILE = files.PublicFile(
    name="HumanEval.jsonl.gz",
    address="https://raw.githubusercontent.com/openai/human-eval/master/data/HumanEval.jsonl.gz",
    size=44_877,
    sha256="b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
)


class _Row(files.Row):
    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


@dataclass(frozen=True)
class HumanEvalTask(Task):
    """entry_point: the function that is asked for. tests: source that defines `check(candidate)`."""

    name: str
    prompt: str
    entry_point: str
    reference: str
    tests: str
    stop: tuple[str, ...] = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
    """Those of the paper."""
    comment = "# "

    def examine(self, completion: str, sandbox: Sandbox) -> Verdict:
        program = self.program(completion)
        if program is None:
            return Verdict("fail", 0.0, f"the completion neither goes on with {self.entry_point} nor defines it")
        outcome = sandbox.judge(program, f"{self.preamble}\n{self.tests}\ncheck({self.entry_point})\n")
        return Verdict(outcome.kind, float(outcome.kind == "pass"), outcome.detail)

    @property
    def preamble(self) -> str:
        """What the prompt defines before the function: imports, and helpers that the tests may call.

        It is part of the program and of the tests, so that a program which defines a helper anew does not judge itself.
        """
        return self.prompt[: programs.where_defined(self.prompt, self.entry_point)]

    def program(self, completion: str) -> str | None:
        """The whole program that a completion makes of the prompt; None where it holds none of the function.

        A completion goes on where the prompt ends, up to the first statement at the margin, or it writes the whole
        function again, alone or in a fenced block.
        """
        if programs.is_indented(self.prompt.rpartition("\n")[2] + completion):
            return self._continued(completion)
        blocks = programs.fenced(completion)
        whole = next((block for block in blocks if self._defined_in(block)), None)
        if whole is None and self._defined_in(completion):
            whole = programs.definitions(completion)
        if whole is not None:
            return self.preamble + whole
        return self._continued(blocks[0]) if blocks and programs.is_indented(blocks[0]) else None

    def _defined_in(self, text: str) -> bool:
        return programs.where_defined(text, self.entry_point) is not None

    def _continued(self, text: str) -> str | None:
        body = programs.continuation(text)
        return None if programs.is_only_comments(body) else self.prompt + body

    def solution(self) -> str:
        return self.reference


def tasks(
    split: Split, count: int, *, level: int = 1, seed: int = 0, path: str | None = None, cache: Path | None = None
) -> list[Task]:
    """The tasks of the published file, or of the one at `path`: all are held out, none is ever trained on.

    Raises:
        ValueError: the split "train", a level, a file that cannot be had, a malformed line.
    """
    files.refuse_levels("humaneval", level)
    if split == "train":
        raise ValueError("humaneval is for measuring only: it has no tasks to train on; take mbpp, or a generated set")
    found: list[Task] = []
    for place, row in files.read_rows(files.locate("humaneval", path, _FILE, cache), _Row, unique="task_id"):
        if programs.where_defined(row.prompt, row.entry_point) is None:
            raise ValueError(f"{place}: the prompt does not define the entry_point {row.entry_point!r}")
        if "def check(" not in row.test:
            raise ValueError(f"{place}: the test does not define check(candidate)")
        found.append(HumanEvalTask(row.task_id, row.prompt, row.entry_point, row.canonical_solution, row.test))
    return files.choose(found, count, seed)
