"""What a set of tasks offers: `tasks(split, count, *, level=1, seed=0, path=None) -> list[Task]`.

A file in `eco/tasks/sets` is a set. What its `tasks` returns depends only on its arguments and on the file `path`; no
task of "train" is one of "held_out", whatever the seed. It refuses with ValueError what it cannot serve: a set that is
made a path, or more tasks than there are; a published one, which says so by `PUBLISHED = True`, levels, while of its
tasks it gives at most `count`.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from eco.sandbox import Sandbox
from eco.tasks.verdict import Outcome, Verdict

Split = Literal["train", "held_out"]

LONGEST_COMPLETION = 1 << 18
"""Characters of a completion that are still looked at; a longer one fails, whatever it says."""

_SAID: dict[Outcome, str] = {
    "pass": "right",
    "fail": "wrong",
    "timeout": "takes too long",
    "memory": "takes too much memory",
    "crash": "ends the process",
    "tamper": "forges a result",
    "infrastructure": "not judged",
}


class NotJudged(Exception):
    """The sandbox failed, so that nothing is known about a completion."""


class Task(ABC):
    """One problem in words, with a check that knows more than the prompt tells.

    `prompt + solution()` is a document that a language model can be trained on.
    """

    name: str
    """Unique in its set, and the same in every process: `HumanEval/0`."""

    prompt: str
    """What the model continues."""

    stop: tuple[str, ...] = ()
    """Texts that end a completion; sampling stops before the first of them."""

    comment: ClassVar[str] = ""
    """What a line of words before the prompt begins with, so that it is a comment where the prompt is a program."""

    def check(self, completion: str, sandbox: Sandbox) -> Verdict:
        """Judges what followed the prompt; any text gets a verdict, and an empty one never a pass."""
        if not completion.strip():
            return Verdict("fail", 0.0, "the completion is empty")
        if len(completion) > LONGEST_COMPLETION:
            return Verdict("fail", 0.0, f"the completion is longer than {LONGEST_COMPLETION} characters")
        return self.examine(completion, sandbox)

    def behaviour(self, completion: str, sandbox: Sandbox) -> str | None:
        """What a completion answers, or does: a text that is the same for completions of this task which mean the same.

        Nothing that is expected is read for it, so that completions can vote without being told what is right. None
        where it has no behaviour: it holds no answer, or its program fails.

        Raises:
            NotJudged: the sandbox failed.
        """
        if not completion.strip() or len(completion) > LONGEST_COMPLETION:
            return None
        return self.observe(completion, sandbox)

    def feedback(self, verdict: Verdict) -> str:
        """What may be said of a failed completion to whoever gave it, in a line. `detail` may quote the tests and what
        is expected: a task that gives more than the outcome away makes sure that it holds nothing of either."""
        return _SAID[verdict.outcome]

    @abstractmethod
    def examine(self, completion: str, sandbox: Sandbox) -> Verdict:
        """`check` of a completion that is neither empty nor endless. Raises nothing, whatever the text: lone
        surrogates, null characters, programs that do not parse."""

    def observe(self, completion: str, sandbox: Sandbox) -> str | None:
        """`behaviour` of a completion that is neither empty nor endless. None for all of a task whose tests are not
        calls that can be repeated without what is expected of them."""
        return None

    @abstractmethod
    def solution(self) -> str:
        """A completion that passes."""
