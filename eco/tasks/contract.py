"""What a set of tasks offers: `tasks(split, count, *, level=1, seed=0, path=None) -> list[Task]`.

A file in `eco/tasks/sets` is a set. What its `tasks` returns depends only on its arguments and on the file `path`; no
task of "train" is one of "held_out", whatever the seed. It refuses with ValueError what it cannot serve: a set that is
made a path, or more tasks than there are; a published one levels, while of its tasks it gives at most `count`.
"""

from abc import ABC, abstractmethod
from typing import Literal

from eco.sandbox import Sandbox
from eco.tasks.verdict import Verdict

Split = Literal["train", "held_out"]

LONGEST_COMPLETION = 1 << 18
"""Characters of a completion that are still looked at; a longer one fails, whatever it says."""


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

    def check(self, completion: str, sandbox: Sandbox) -> Verdict:
        """Judges what followed the prompt; any text gets a verdict, and an empty one never a pass."""
        if not completion.strip():
            return Verdict("fail", 0.0, "the completion is empty")
        if len(completion) > LONGEST_COMPLETION:
            return Verdict("fail", 0.0, f"the completion is longer than {LONGEST_COMPLETION} characters")
        return self.examine(completion, sandbox)

    @abstractmethod
    def examine(self, completion: str, sandbox: Sandbox) -> Verdict:
        """`check` of a completion that is neither empty nor endless. Raises nothing, whatever the text: lone
        surrogates, null characters, programs that do not parse."""

    @abstractmethod
    def solution(self) -> str:
        """A completion that passes."""
