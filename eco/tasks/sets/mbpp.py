"""MBPP: a sentence and an assertion ask for a program (Austin et al., 2021, arXiv 2108.07732)."""

import builtins
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from eco.sandbox import Sandbox
from eco.tasks import files, programs
from eco.tasks.contract import Split, Task
from eco.tasks.verdict import Verdict

PUBLISHED = True

_FILE = files.PublicFile(
    name="mbpp.jsonl",
    address="https://raw.githubusercontent.com/google-research/google-research/master/mbpp/mbpp.jsonl",
    size=563_743,
    sha256="ccf64ceae9c5403bf50a044cb6d505bfd2a2963ee58338ba268fd65beab92a9f",
)

_SPLITS: dict[Split, tuple[range, ...]] = {"train": (range(601, 975),), "held_out": (range(11, 511), range(511, 601))}
"""The published task_ids: training; test and validation. 1 to 10 are for few-shot prompts and in neither."""

_CALLED = re.compile(r"(?<![\w.])(\w+)\(")
_NOT_LENT = frozenset(dir(builtins)) | sys.stdlib_module_names
"""Names that a judge does not take from a program."""


class _Row(files.Row):
    task_id: int
    text: str
    code: str
    test_list: list[str]
    challenge_test_list: tuple[str, ...] = ()
    test_setup_code: str = ""


@dataclass(frozen=True)
class MBPPTask(Task):
    """The prompt is the sentence and the first assertion in a docstring, as InCoder has it (arXiv 2204.05999).

    setup: code that makes arguments for the tests from what the program defines. tests: all assertions; the first is
    the only one that the prompt shows. own: the function under test, if it is called like a builtin or a module of the
    standard library, else empty. The score is 1 or 0: assertions are not judged one by one.
    """

    name: str
    prompt: str
    reference: str
    setup: str
    tests: tuple[str, ...]
    own: str
    stop: tuple[str, ...] = ("\nassert", '\n"""', "\nprint", "\nif", "\n```")
    comment = "# "

    def examine(self, completion: str, sandbox: Sandbox) -> Verdict:
        program = self._program(completion)
        if not programs.defines_anything(program):
            return Verdict("fail", 0.0, "the completion defines nothing")
        # The arguments are made of the program's own classes, so in its process; modules are for the tests as well.
        imports = [line for line in self.setup.splitlines() if line.startswith(("import ", "from "))]
        source, tests = f"{program}\n{self.setup}\n", "\n".join([*imports, *self.tests]) + "\n"
        if self.own:  # under a name that the judge does take, and no builtin where the program has none
            source += f"_own_{self.own} = globals()[{self.own!r}]\n"
            tests = f"{self.own} = _own_{self.own}\n{tests}"
        outcome = sandbox.judge(source, tests)
        return Verdict(outcome.kind, float(outcome.kind == "pass"), outcome.detail)

    def _program(self, completion: str) -> str:
        """The first fenced block that defines something, else all up to a stop."""
        blocks = filter(programs.defines_anything, programs.fenced(completion))
        return next(blocks, programs.cut(completion, self.stop))

    def solution(self) -> str:
        return self.reference


def tasks(
    split: Split, count: int, *, level: int = 1, seed: int = 0, path: str | None = None, cache: Path | None = None
) -> list[Task]:
    """The tasks of a split, by the published task_ids, of the published file or of the one at `path`.

    Raises:
        ValueError: a level, a file that cannot be had or holds no task of the split, a malformed line.
    """
    files.refuse_levels("mbpp", level)
    chosen: list[Task] = []
    file = files.locate("mbpp", path, _FILE, cache)
    for place, row in files.read_rows(file, _Row, unique="task_id"):
        if not any(test.strip() for test in row.test_list):
            raise ValueError(f"{place}: 'test_list' holds no test")
        if any(row.task_id in ids for ids in _SPLITS[split]):
            chosen.append(_task(row))
    if not chosen:
        raise ValueError(f"{file} holds none of the tasks {_named(split)}, which are the published split {split!r}")
    return files.choose(chosen, count, seed)


def _task(row: _Row) -> MBPPTask:
    first = next(test for test in row.test_list if test.strip())
    code = _lines(row.code)
    own = {
        name for name in _CALLED.findall(first) if name in _NOT_LENT and programs.where_defined(code, name) is not None
    }
    return MBPPTask(
        name=f"MBPP/{row.task_id}",
        prompt=f'"""\n{row.text.strip()}\n{first.strip()}\n"""\n',
        reference=code,
        setup=_lines(row.test_setup_code),
        tests=tuple(_lines(test) for test in (*row.test_list, *row.challenge_test_list)),
        own=own.pop() if len(own) == 1 else "",
    )


def _lines(code: str) -> str:
    """The published lines end as on Windows, and the last has no end."""
    return code.replace("\r\n", "\n").strip("\n") + "\n"


def _named(split: Split) -> str:
    return ", ".join(f"{ids.start} to {ids.stop - 1}" for ids in _SPLITS[split])
