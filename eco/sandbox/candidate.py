"""The process of an untrusted program: runs it, then answers calls to what it defined.

Whatever this process says may be the program's own words: nothing of it is a verdict, and nothing that it must not know
is ever sent here. What the program does to this module (patched builtins, closed files) can only spoil its own answers.
"""

import builtins
import random
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from eco.sandbox.codec import Malformed, Unrepresentable, decode, encode
from eco.sandbox.protocol import FRAME

for _name in ("bisect", "collections", "copy", "datetime", "heapq", "itertools", "math", "re", "string", "typing"):
    import_module(_name)  # what programs commonly import is loaded once, in the process that the others are forked from

_MESSAGE = 500  # characters of an exception's message
_BUILTIN_ERRORS = {
    name: kind for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, Exception)
}


class _Handles:
    """The objects that stay here while their handles travel. A name of the program is its own reference."""

    def __init__(self, namespace: dict[str, Any], allowed: bool) -> None:
        self._namespace = namespace
        self._allowed = allowed
        self._objects: list[Any] = []

    def refer(self, value: Any) -> tuple[int | str, str]:
        kind = type(value).__name__
        if not self._allowed:
            raise Unrepresentable(f"an object of type {kind} cannot be carried")
        self._objects.append(value)
        return len(self._objects) - 1, kind

    def resolve(self, reference: int | str, kind: str) -> Any:
        return self._namespace[reference] if isinstance(reference, str) else self._objects[reference]


def serve(read_frame: Callable[[], bytes], write_frame: Callable[[bytes], None]) -> None:
    """Runs the program of the first frame and answers questions until the frames end (`b""`).

    The process must leave by `os._exit` afterwards: the program may have left threads and atexit handlers behind.
    """
    _, source, allowed = decode(read_frame(), size=FRAME)
    random.seed(0)  # a program that draws numbers gets the same verdict each time
    module = ModuleType("program")
    sys.modules["program"] = module  # dataclasses and typing look a class's module up
    try:
        exec(compile(source, "<program>", "exec", dont_inherit=True), module.__dict__)
        reply = encode(["ready", _public(module.__dict__)])
    except BaseException as error:  # SystemExit and KeyboardInterrupt, too, are the program's
        write_frame(encode(["failed", *_describe(error)]))
        return
    _flush()
    write_frame(reply)
    handles = _Handles(module.__dict__, allowed)
    while frame := read_frame():
        write_frame(_answer(frame, module.__dict__, handles))


def _public(namespace: dict[str, Any]) -> dict[str, str]:
    return {
        name: "callable" if callable(value) else "value"
        for name, value in namespace.items()
        if type(name) is str and not name.startswith("__") and not isinstance(value, ModuleType)
    }


def _answer(frame: bytes, namespace: dict[str, Any], handles: _Handles) -> bytes:
    kind, identity, target, *arguments = decode(frame, handles.resolve, size=FRAME)
    try:
        value = _perform(kind, target, arguments, namespace)
        _flush()
        return encode(["value", identity, value], handles.refer)
    except BaseException as error:
        return encode(["error", identity, *_describe(error)])


def _perform(kind: str, target: Any, arguments: list[Any], namespace: dict[str, Any]) -> Any:
    if kind == "call":
        if isinstance(target, str):
            if target not in namespace:
                raise NameError(f"name {target!r} is not defined")
            target = namespace[target]
        args, kwargs = arguments
        return target(*args, **kwargs)
    if kind == "get":
        return namespace[arguments[0]] if target is None else getattr(target, arguments[0])
    if kind == "set":
        return setattr(target, *arguments)
    raise Malformed(f"a question of unknown kind {kind!r}")


def _describe(error: BaseException) -> tuple[str, str, str]:
    """Name, nearest builtin exception and message. An exception's own `__str__` may do anything at all."""
    base = next((kind.__name__ for kind in type(error).__mro__ if _BUILTIN_ERRORS.get(kind.__name__) is kind), "")
    try:
        message = str(str(error)[:_MESSAGE])
    except BaseException:
        message = "(the message could not be made)"
    return str(type(error).__name__)[:_MESSAGE], base, message


def _flush() -> None:
    """What was printed must be out before the answer is: nothing is flushed when the process is killed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # closed or replaced by the program
            continue
