"""Tasks whose answer is one line of text."""

from dataclasses import dataclass

from eco.sandbox import Sandbox
from eco.tasks.contract import Task
from eco.tasks.generate.deal import Draft
from eco.tasks.generate.expression import Operation, meaning, value, written
from eco.tasks.verdict import Verdict


@dataclass(frozen=True)
class AnswerTask(Task):
    """The rest of the prompt's last line has to be the answer, to the letter: `8`, not `08`, `8.0` or `8 apples`.

    One way to write an answer leaves nothing to be parsed, and so nothing to be exploited. What follows the line is not
    looked at, as sampling may run past the stop.
    """

    name: str
    prompt: str
    answer: str
    stop: tuple[str, ...] = ("\n",)

    def examine(self, completion: str, sandbox: Sandbox) -> Verdict:
        said = self._said(completion)
        if said == self.answer:
            return Verdict("pass", 1.0)
        return Verdict("fail", 0.0, f"{said[:40]!r} instead of {self.answer!r}")

    def observe(self, completion: str, sandbox: Sandbox) -> str | None:
        return self._said(completion) or None

    def solution(self) -> str:
        return f" {self.answer}\n"

    def _said(self, completion: str) -> str:
        return completion.split("\n", 1)[0].strip(" ")


def compute(expression: int | Operation) -> Draft:
    """The task to say what an expression comes to."""
    text = written(expression)
    prompt, answer = f"Compute {text}\nAnswer:", str(value(expression))
    return Draft(meaning(expression), text, lambda name: AnswerTask(name, prompt, answer))
