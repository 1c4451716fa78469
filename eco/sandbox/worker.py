"""One run at a time: a process for programs, one for tests, and the verdict between them."""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any, Self

from eco.sandbox import protocol
from eco.sandbox.codec import Malformed, Unrepresentable
from eco.sandbox.launch import Level, Role, start
from eco.sandbox.limits import Limits
from eco.sandbox.outcome import Call, Kind, Outcome
from eco.sandbox.process import Broken, Ended, Flood, Process

_EXHAUSTED = 0.5  # of the limit on processor time: the kernel counts ticks for it, and on a busy machine too many
_ANSWERS = 4 << 20  # bytes of all answers of a run: a value may take 25 times as much memory as its bytes
_DETAIL = 1000  # characters of an outcome's detail


class _Over(Exception):
    """The run is over before its time."""

    def __init__(self, kind: Kind, detail: str) -> None:
        self.kind: Kind = kind
        self.detail = detail


class Worker:
    """One thread at a time; its processes are started by the starter's one thread, with which they die.

    No process that runs programs ever held a test, not even an earlier run's: they are forked from another zygote.
    """

    def __init__(self, level: Level, limits: Limits, starter: Executor) -> None:
        self._level = level
        self._limits = limits
        self._starter = starter
        self._processes: dict[Role, Process] = {}
        self._retired = False
        self._busy = threading.RLock()

    def run(self, program: str, calls: Sequence[Call]) -> list[Outcome]:
        """One outcome for each call, in order. Where the program itself fails, dies or has said too much, the calls
        left share that."""
        outcomes: list[Outcome] = []

        def ask() -> None:
            first = [question for _, question in questions[:1]]  # goes along with the program, to save a round trip
            candidate = self._begin("candidate", lambda: protocol.program(program, handles=False), *first)
            self._greeting(candidate)
            since = begun
            left = _ANSWERS
            for number, (identity, question) in enumerate(questions):
                if number:
                    since = time.perf_counter()
                    candidate.send(question)
                frame = self._answer(candidate)
                left -= len(frame)
                if left < 0:
                    raise _Over("memory", f"the answers take more than {_ANSWERS >> 20} MB together")
                reply = protocol.answer(frame, identity)
                outcomes.append(self._outcome(*_result(reply), time.perf_counter() - since))

        questions = [_question(call) for call in calls]
        begun = time.perf_counter()
        over = self._guarded(ask)
        output = self._end()
        if over is not None:
            rest = self._outcome(over.kind, None, over.detail, time.perf_counter() - begun)
            outcomes += [rest] * (len(calls) - len(outcomes))
        return [replace(outcome, output=output) for outcome in outcomes]

    def judge(self, program: str, tests: str) -> Outcome:
        """Whether the tests run to their end, with the program's names bound to proxies."""
        begun = time.perf_counter()
        verdict: list[tuple[str, str]] = []
        over = self._guarded(lambda: verdict.append(self._judge(program, tests)))
        output = self._end()
        kind, detail = (over.kind, over.detail) if over is not None else verdict[0]
        return replace(self._outcome(kind, None, detail, time.perf_counter() - begun), output=output)

    def close(self) -> None:
        """Ends the processes; the next use starts new ones."""
        while self._processes:
            self._processes.popitem()[1].close()

    def __enter__(self) -> Self:
        self._busy.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None:  # a run that the host gave up: what its processes are doing is not known
                self.close()
        finally:
            self._busy.release()

    def retire(self) -> None:
        """Ends the processes for good, from any thread; a run of another one comes to `infrastructure`."""
        self._retired = True
        for process in [*self._processes.values()]:
            process.kill()
        with self._busy:
            self.close()

    def _judge(self, program: str, tests: str) -> tuple[str, str]:
        self._process("judge")  # a start would take from the program's time
        candidate = self._begin("candidate", lambda: protocol.program(program, handles=True))
        names = self._greeting(candidate)
        judge = self._begin("judge", lambda: protocol.tests(tests, names))
        while True:
            try:
                frame = judge.receive()
            except Ended as ended:
                kind, detail = _ending(ended, self._limits)
                raise _Over(
                    kind if kind in ("timeout", "memory") else "infrastructure", f"the tests: {detail}"
                ) from None
            except Flood:
                raise _Over("infrastructure", "the tests sent too large a message") from None
            verdict = protocol.verdict(frame)
            if verdict is not None:
                return verdict
            candidate.send(frame)
            judge.send(self._answer(candidate))

    def _greeting(self, candidate: Process) -> dict[str, str]:
        greeting = protocol.greeting(self._answer(candidate))
        if isinstance(greeting, protocol.Failure):
            raise _Over(*_failure(greeting))
        return greeting

    def _begin(self, role: Role, job: Callable[[], bytes], *more: bytes) -> Process:
        try:
            frame = job()
        except Unrepresentable as error:
            raise _Over("fail", f"the source is too long: {error}") from None
        process = self._process(role)
        process.begin(self._limits.seconds)
        process.send(frame, *more)
        return process

    def _process(self, role: Role) -> Process:
        if role not in self._processes:
            self._processes[role] = self._started(role)
        if self._retired:
            raise Broken("the sandbox was closed")
        return self._processes[role]

    def _started(self, role: Role) -> Process:
        try:
            future = self._starter.submit(start, self._level, role, self._limits)
        except RuntimeError:  # its thread has ended
            raise Broken("the sandbox was closed") from None
        try:
            return future.result()
        except BaseException:
            future.add_done_callback(_end)  # nobody waits for it any more
            raise

    def _answer(self, candidate: Process) -> bytes:
        try:
            frame = candidate.receive()
        except Ended as ended:
            raise _Over(*_ending(ended, self._limits)) from None
        if not frame:  # to the judge it would be the end
            raise Malformed("an empty message")
        return frame

    def _guarded(self, work: Callable[[], None]) -> _Over | None:
        try:
            work()
        except _Over as over:
            return over
        except Malformed as error:
            return _Over("tamper", str(error))
        except Flood:
            self.close()
            return _Over("tamper", "more or larger messages than any of ours")
        except Broken as error:
            self.close()
            return _Over("infrastructure", str(error))
        return None

    def _end(self) -> str:
        """Ends what still runs and gives what the program printed."""
        try:
            output = {role: process.stop() for role, process in self._processes.items()}
            return output.get("candidate", "")
        except (Broken, Flood):
            self.close()
            return ""

    def _outcome(self, kind: Any, value: Any, detail: str, seconds: float) -> Outcome:
        return Outcome(kind, value, _line(detail), "", seconds, self._level)


def _end(future: Future[Process]) -> None:
    if future.exception() is None:
        future.result().close()


def _question(call: Call) -> tuple[str, bytes]:
    identity = protocol.new_id()
    try:
        return identity, protocol.call(identity, call.function, call.args, call.kwargs)
    except Unrepresentable as error:
        raise ValueError(f"an argument of {call.function} cannot be sent into the sandbox: {error}") from error


def _result(reply: tuple[Any] | protocol.Failure) -> tuple[Kind, Any, str]:
    if isinstance(reply, protocol.Failure):
        kind, detail = _failure(reply)
        return kind, None, detail
    return "pass", reply[0], ""


def _failure(failure: protocol.Failure) -> tuple[Kind, str]:
    return "memory" if failure.base == "MemoryError" else "fail", str(failure)


def _ending(ended: Ended, limits: Limits) -> tuple[Kind, str]:
    """What the way in which a child ended says; an exit status is never good news."""
    if ended.how == "timeout":
        return "timeout", f"longer than {limits.seconds:g} s"
    if ended.how == "walls":
        return "infrastructure", ended.detail
    if ended.status is None:
        return "tamper", "it closed the channel"
    if ended.cpu >= _EXHAUSTED * limits.cpu_seconds:
        return "timeout", f"more than {limits.cpu_seconds} s of processor time"
    if ended.status == -signal.SIGKILL:
        return "memory", "the system killed it, as it does when memory runs out"
    return "crash", f"the process ended with {_status(ended.status)}"


def _status(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # the real-time signals have no names
        return f"signal {-status}"


def _line(detail: str) -> str:
    """Words that a program may have chosen, as one line of a log: without line breaks and codes for terminals."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in detail[:_DETAIL])
