"""Tasks whose answer is the body of a function, which the sandbox calls with hidden values."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from eco.sandbox import Call, Outcome, Sandbox
from eco.tasks import programs
from eco.tasks.contract import NotJudged, Task
from eco.tasks.generate.examples import Example
from eco.tasks.verdict import Verdict


@dataclass(frozen=True)
class ProgramTask(Task):
    """The prompt ends within or before the body of `solve`; a completion goes on, or gives the whole function anew.

    A result counts if it equals the expected one and has its type, at every depth: True is not 1, and 1.0 is neither.
    Entries of a dictionary have no order. The score is the share of hidden values that are answered rightly.
    """

    name: str
    prompt: str
    signature: str
    body: str
    hidden: tuple[Example, ...]
    stop: tuple[str, ...] = ("\ndef ", "\nclass ", "\nprint", "\nif ", "\n#", "\n```", "\n>>>")
    comment = "# "

    def examine(self, completion: str, sandbox: Sandbox) -> Verdict:
        program = self._program(completion)
        if program is None:
            return Verdict("fail", 0.0, "no body of solve, nor a definition of it")
        return self._judged(sandbox.run(program, self._calls()))

    def observe(self, completion: str, sandbox: Sandbox) -> str | None:
        """The digest of what `solve` returns for the hidden values; None where it fails for one of them."""
        program = self._program(completion)
        if program is None:
            return None
        outcomes = sandbox.run(program, self._calls())
        if broken := next((outcome for outcome in outcomes if outcome.kind == "infrastructure"), None):
            raise NotJudged(broken.detail)
        if any(outcome.kind != "pass" for outcome in outcomes):
            return None
        results = "\n".join(canonical(outcome.value) for outcome in outcomes)
        return hashlib.sha256(results.encode("ascii")).hexdigest()

    def feedback(self, verdict: Verdict) -> str:
        """The detail: how many calls are right and what the program raised. No expected value is sent into the process
        that a program raises in, or named in `_judged`."""
        return verdict.detail

    def _calls(self) -> list[Call]:
        return [Call("solve", (example.given,)) for example in self.hidden]

    def solution(self) -> str:
        return self.body

    def _program(self, completion: str) -> str | None:
        """The program that a completion makes: it goes on with the body, or the first fenced block that holds one
        counts, or else all of it. None if there is no program."""
        blocks = [] if programs.is_indented(completion) else programs.fenced(completion)
        return next(filter(None, map(self._read, [*blocks, completion])), None)

    def _read(self, text: str) -> str | None:
        if programs.is_indented(text):
            body = programs.continuation(text)
            return None if programs.is_only_comments(body) else self.signature + body
        whole = programs.definitions(text)
        return None if programs.where_defined(whole, "solve") is None else whole

    def _judged(self, outcomes: Sequence[Outcome]) -> Verdict:
        """A pass if all results are right. Otherwise what the worst of them says, a failed check before anything."""
        for kind in ("infrastructure", "tamper", "memory", "timeout", "crash"):
            for outcome in outcomes:
                if outcome.kind == kind:
                    return Verdict(outcome.kind, 0.0, outcome.detail)
        right = [
            outcome.kind == "pass" and same(outcome.value, example.expected)
            for outcome, example in zip(outcomes, self.hidden, strict=True)
        ]
        if all(right):
            return Verdict("pass", 1.0)
        wrong = outcomes[right.index(False)]
        said = wrong.detail if wrong.kind != "pass" else "another result than expected"
        return Verdict("fail", sum(right) / len(right), f"{sum(right)} of {len(right)} hidden calls are right; {said}")


def same(result: Any, expected: Any) -> bool:
    """Whether two values are equal and of equal types, at every depth."""
    if type(result) is not type(expected):
        return False
    if isinstance(expected, dict):
        keys = {key: key for key in result}  # a key is found by any that equals it
        return len(result) == len(expected) and all(
            key in result and same(keys[key], key) and same(result[key], value) for key, value in expected.items()
        )
    if isinstance(expected, list | tuple):
        return len(result) == len(expected) and all(map(same, result, expected))
    return bool(result == expected)


def canonical(value: Any) -> str:
    """An ASCII text that values share if and only if they are `same`; sets, if and only if their members are.

    value: one that the sandbox carries. Takes time in proportion to its size, times its depth.
    """
    kind = type(value).__name__
    if isinstance(value, dict):
        return f"{kind}({','.join(sorted(f'{canonical(key)}:{canonical(member)}' for key, member in value.items()))})"
    if isinstance(value, set | frozenset):
        return f"{kind}({','.join(sorted(map(canonical, value)))})"
    if isinstance(value, str | bytes):
        return f"{kind}({value!a})"
    if isinstance(value, Iterable):
        return f"{kind}({','.join(map(canonical, value))})"
    if isinstance(value, int):
        return f"{kind}({value:x})"  # the decimal form of a long number takes quadratic time and has a limit
    if isinstance(value, float):
        return f"{kind}({value + 0.0!r})"  # -0.0 equals 0.0
    return f"{kind}({value!r})"
