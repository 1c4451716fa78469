"""The process of the tests: runs them with the program's names bound to proxies, and says whether they passed.

No code of the program runs here, only values arrive, so the program can never reach into a comparison. For the same
reason builtins and modules of the standard library are the judge's own, whatever the program calls by their names: a
program's `abs` or `math` must not decide whether its answer is close enough. Tests of a function that is called `sum`
bind the name themselves, to another one of the program.
"""

import builtins
import random
import symtable
import sys
from collections.abc import Callable
from importlib import import_module
from types import TracebackType
from typing import Any

from eco.sandbox import protocol
from eco.sandbox.codec import Malformed, TooLarge, Unrepresentable, decode, encode

_FILE = "<tests>"
_LINE = 300  # characters of a line of the tests that a detail quotes
_BUILTINS = frozenset(dir(builtins))
_ENDINGS = (StopIteration, StopAsyncIteration)  # would end a loop of the tests over their cases as if it were complete


class _Tamper(BaseException):
    """The program's process said what an honest one does not say."""


class _Gone(BaseException):
    """The frames ended: the host has no more answers, and knows why."""


class _Unjudgeable(BaseException):
    """The tests need what cannot be carried to the program: not the program's fault."""


class ProgramError(Exception):
    """An exception of the program that is not one of the builtin ones."""


class _Link:
    """Asks the program, one question at a time."""

    def __init__(self, read_frame: Callable[[], bytes], write_frame: Callable[[bytes], None]) -> None:
        self._read = read_frame
        self._write = write_frame
        self.answers = 0
        self.broken: BaseException | None = None  # kept, as tests may catch what is raised

    def ask(self, kind: str, target: Any, *arguments: Any) -> Any:
        if self.broken is not None:
            raise self.broken
        try:
            return self._ask(kind, target, arguments)
        except (_Tamper, _Gone, _Unjudgeable) as error:
            self.broken = error
            raise

    def _ask(self, kind: str, target: Any, arguments: tuple[Any, ...]) -> Any:
        identity = protocol.new_id()
        try:
            self._write(encode([kind, identity, target, *arguments], Remote.refer, protocol.FRAME))
        except TooLarge as error:  # the program made it so large, or the reference would not pass either
            raise ValueError(str(error)) from None
        except Unrepresentable as error:
            raise _Unjudgeable(str(error)) from None
        frame = self._read()
        if not frame:
            raise _Gone
        try:
            reply = protocol.answer(frame, identity, self._resolve)
        except Malformed as error:
            raise _Tamper(str(error)) from None
        self.answers += 1
        if isinstance(reply, protocol.Failure):
            raise _exception(reply)
        return reply[0]

    def _resolve(self, reference: int | str, kind: str) -> "Remote":
        return Remote(self, reference, kind)


class Remote:
    """An object in the program's process. It can be called, its attributes read and set, and it can be passed back.

    It has no truth value and equals nothing, as the program would decide about both.
    """

    __slots__ = ("__kind", "__link", "__reference")  # mangled: any other attribute is one of the object there

    def __init__(self, link: _Link, reference: int | str, kind: str) -> None:
        object.__setattr__(self, "_Remote__link", link)
        object.__setattr__(self, "_Remote__reference", reference)
        object.__setattr__(self, "_Remote__kind", kind)

    @staticmethod
    def refer(value: Any) -> tuple[int | str, str]:
        """What `encode` sends for a handle."""
        if isinstance(value, Remote):
            return value.__reference, value.__kind
        raise Unrepresentable(f"an object of type {type(value).__name__} cannot be carried")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__link.ask("call", self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy, isinstance and others look these up on their own
            raise AttributeError(name)
        return self.__link.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__link.ask("set", self, name, value)

    def __repr__(self) -> str:
        return f"<{self.__kind} of the program>"

    def __bool__(self) -> bool:
        raise TypeError(f"the truth of an object of type {self.__kind} is not known outside the program")

    def __eq__(self, other: object) -> bool:
        raise TypeError(f"an object of type {self.__kind} cannot be compared outside the program")

    __hash__ = object.__hash__


def serve(read_frame: Callable[[], bytes], write_frame: Callable[[bytes], None]) -> None:
    """Runs the tests of the first frame and writes a verdict, unless the frames end (`b""`) before."""
    _, source, names = decode(read_frame(), size=protocol.FRAME)
    random.seed(source)  # tests that draw their cases draw the same each time, and no program knows which
    link = _Link(read_frame, write_frame)
    outcome, detail = _judge(source, names, link)
    if not isinstance(link.broken, _Gone):
        write_frame(encode(["verdict", outcome, detail]))


def _judge(source: str, names: dict[str, str], link: _Link) -> tuple[str, str]:
    """The outcome, and a detail for the host's log: it quotes the tests."""
    try:
        code = compile(source, _FILE, "exec", dont_inherit=True)
        needed = _needed(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return "infrastructure", f"the tests do not compile: {error}"
    failure: BaseException | None = None
    try:
        exec(code, _namespace(needed, names, link))
    except BaseException as error:  # whatever ends the tests early, SystemExit too, is not a pass
        failure = error
    if isinstance(link.broken, _Tamper):
        return "tamper", str(link.broken)
    if isinstance(link.broken, _Unjudgeable):
        return "infrastructure", f"the tests cannot be carried out here: {link.broken}"
    if failure is not None:
        outcome = "memory" if isinstance(failure, MemoryError) else "fail"
        return outcome, _where(failure, source)
    if not link.answers:
        return "fail", "the tests asked nothing of the program"
    return "pass", ""


def _needed(source: str) -> set[str]:
    """The names that the tests use and do not define."""
    used: set[str] = set()
    top = symtable.symtable(source, _FILE, "exec")
    defined = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    tables = [top]
    while tables:
        table = tables.pop()
        tables.extend(table.get_children())
        used.update(s.get_name() for s in table.get_symbols() if s.is_referenced() and (table is top or s.is_global()))
    return used - defined


def _namespace(needed: set[str], names: dict[str, str], link: _Link) -> dict[str, Any]:
    """The globals of the tests: modules of the standard library and the program's names, as far as they are used."""
    modules = {name for name in needed if name in sys.stdlib_module_names}
    namespace: dict[str, Any] = {"__name__": "tests"}
    namespace.update((name, import_module(name)) for name in modules)
    for name in (needed - _BUILTINS - modules) & names.keys():
        namespace[name] = Remote(link, name, "name") if names[name] == "callable" else link.ask("get", None, name)
    return namespace


def _exception(failure: protocol.Failure) -> Exception:
    """The program's exception as the builtin one that it is, or descends from."""
    kind = getattr(builtins, failure.base, None) if failure.base in _BUILTINS else None
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _ENDINGS):
        message = failure.message if failure.name == failure.base else str(failure)
        try:
            return kind(message)
        except TypeError:  # UnicodeError's kinds and groups take more than a message
            pass
    return ProgramError(str(failure))


def _where(failure: BaseException, source: str) -> str:
    """The last line of the tests that was reached, and what was raised there."""
    number = 0
    trace: TracebackType | None = failure.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _FILE:
            number = trace.tb_lineno
        trace = trace.tb_next
    lines = source.splitlines()
    line = lines[number - 1].strip()[:_LINE] if 0 < number <= len(lines) else ""
    try:
        message = str(failure)[:_LINE]
    except BaseException:
        message = ""
    return f"line {number}: {line}: {type(failure).__name__}" + (f": {message}" if message else "")
