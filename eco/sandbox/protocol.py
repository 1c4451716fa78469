"""What the host, the candidate (the process of the program) and the judge (the process of the tests) say to each other.

Every message is one frame: a list in the tagged JSON of `eco.sandbox.codec` whose first member is its kind.

    host -> candidate    ["program", source, handles]                 the job; handles: answer with handles where needed
    candidate -> host    ["ready", {name: kind}]                      it ran; kind: "callable" or "value"
                         ["failed", name, base, message]              it raised (as in "error"), and the candidate ends
    host -> judge        ["tests", source, {name: kind}]              the job, with what the program defines
    judge -> host -> candidate    ["call", id, target, args, kwargs]  target: the name of a function, or a handle
                                  ["get", id, target, name]           target None: a name of the program itself
                                  ["set", id, target, name, value]
    candidate -> host -> judge    ["value", id, value]
                                  ["error", id, name, base, message]  base: the nearest builtin exception
    judge -> host        ["verdict", outcome, detail]

The host passes a question and its answer on as they are, and reads only verdicts. An id is drawn anew for each
question, so that nobody can answer before being asked.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from eco.sandbox.codec import Malformed, Resolve, decode, encode

FRAME = 9 << 17
"""Bytes of a frame, at most: an encoded value of the largest size and what is around it."""


class Failure(NamedTuple):
    """An exception in the program."""

    name: str
    base: str
    message: str

    def __str__(self) -> str:
        return f"{self.name}: {self.message}" if self.message else self.name


def new_id() -> str:
    """A question's id: 64 random bits."""
    return os.urandom(8).hex()


def program(source: str, handles: bool) -> bytes:
    """The job of a candidate. Raises Unrepresentable if the source is too long."""
    return encode(["program", source, handles], size=FRAME)


def tests(source: str, names: Mapping[str, str]) -> bytes:
    """The job of a judge. Raises Unrepresentable if the source is too long."""
    return encode(["tests", source, dict(names)], size=FRAME)


def call(identity: str, function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """A question of the host itself. Raises Unrepresentable if an argument cannot be carried."""
    return encode(["call", identity, function, tuple(args), dict(kwargs)], size=FRAME)


def greeting(frame: bytes) -> dict[str, str] | Failure:
    """The candidate's first message: what the program defines, or why it does not run.

    Raises:
        Malformed: it is neither.
    """
    message = _message(frame)
    if message[0] == "failed":
        return _failure(message[1:])
    if message[0] != "ready" or len(message) != 2 or type(message[1]) is not dict:
        raise Malformed("the program was not reported as ready")
    names = message[1]
    if not all(type(name) is str and kind in ("callable", "value") for name, kind in names.items()):
        raise Malformed("names of a program are strings of a known kind")
    return names


def answer(frame: bytes, identity: str, resolve: Resolve | None = None) -> tuple[Any] | Failure:
    """The answer to the question with this id: the value in a tuple, or the program's exception.

    Raises:
        Malformed: it is no answer, or the answer to another question.
    """
    message = _message(frame, resolve)
    if len(message) < 3 or message[1] != identity:
        raise Malformed("an answer that was not asked for")
    if message[0] == "error":
        return _failure(message[2:])
    if message[0] != "value" or len(message) != 3:
        raise Malformed("neither a value nor an error")
    return (message[2],)


def verdict(frame: bytes) -> tuple[str, str] | None:
    """Outcome and detail if this message of the judge is its verdict, None if it is a question for the candidate."""
    if not frame.startswith(b'["verdict",'):
        return None
    outcome, detail = decode(frame, size=FRAME)[1:]
    return outcome, detail


def _message(frame: bytes, resolve: Resolve | None = None) -> list[Any]:
    message = decode(frame, resolve, size=FRAME)
    if type(message) is not list or not message:
        raise Malformed("a message is a list with members")
    return message


def _failure(fields: list[Any]) -> Failure:
    if len(fields) != 3 or not all(type(field) is str for field in fields):
        raise Malformed("an error without name, base and message")
    return Failure(*fields)
