"""GSM8K: word problems of grade-school mathematics (Cobbe et al., 2021, arXiv 2110.14168)."""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from eco.sandbox import Sandbox
from eco.tasks import answers, files, programs
from eco.tasks.contract import NotJudged, Split, Task
from eco.tasks.verdict import Verdict

PUBLISHED = True

_DATA = "https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data"
_FILES: dict[Split, files.PublicFile] = {
    "train": files.PublicFile(
        name="gsm8k_train.jsonl",
        address=f"{_DATA}/train.jsonl",
        size=4_166_206,
        sha256="17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
    ),
    "held_out": files.PublicFile(
        name="gsm8k_test.jsonl",
        address=f"{_DATA}/test.jsonl",
        size=749_738,
        sha256="3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
    ),
}

_CALCULATION = re.compile(r"<<[^<>\n]*>>")
"""Notes for a calculator in the published answers: `48/2 = <<48/2=24>>24`."""


class _Row(files.Row):
    question: str
    answer: str


@dataclass(frozen=True)
class GSM8KTask(Task):
    """expected: the number behind the last `####` of the published answer. reasoning: that answer."""

    name: str
    prompt: str
    expected: Fraction
    reasoning: str
    stop: tuple[str, ...] = ("\nQuestion:",)

    def examine(self, completion: str, sandbox: Sandbox) -> Verdict:
        return answers.judge_number(programs.cut(completion, self.stop), self.expected, sandbox)

    def observe(self, completion: str, sandbox: Sandbox) -> str | None:
        value = answers.answered(programs.cut(completion, self.stop), sandbox)
        if isinstance(value, Fraction):
            return str(value)
        if value.outcome == "infrastructure":
            raise NotJudged(value.detail)
        return None

    def solution(self) -> str:
        return self.reasoning


def tasks(
    split: Split, count: int, *, level: int = 1, seed: int = 0, path: str | None = None, cache: Path | None = None
) -> list[Task]:
    """The published file of a split; a file that `path` names is taken for the split that is asked for, as its lines do
    not tell where they belong.

    Raises:
        ValueError: a level, a file that cannot be had, a malformed line.
    """
    files.refuse_levels("gsm8k", level)
    file = files.locate("gsm8k", path, _FILES[split], cache)
    found: list[Task] = [_task(split, place, row) for place, row in files.read_rows(file, _Row)]
    return files.choose(found, count, seed)


def _task(split: Split, place: str, row: _Row) -> GSM8KTask:
    reasoning, marker, last = row.answer.rpartition("####")
    expected = answers.number(last) if marker else None
    if expected is None:
        raise ValueError(f"{place}: 'answer' does not end with #### and a number")
    return GSM8KTask(
        name=f"GSM8K/{split}/{place.rpartition(' ')[2]}",
        prompt=f"Question: {row.question.strip()}\nAnswer:",
        expected=expected,
        reasoning=f" {_CALCULATION.sub('', reasoning).strip()}\n#### {last.strip()}\n",
    )
