"""Runs candidate and judge in two forked processes without walls, relaying as the host does: tests of what they say.

As a script (`python roles.py`) it is the server behind `Roles`: one JSON line in, one out. It imports the sandbox's
inside only, so that forking is cheap and no thread is alive in the process that forks.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

_LARGEST = 2 << 20  # bytes of a frame
FOLDER = Path(__file__).parents[2] / "eco" / "sandbox"


class Roles:
    """The server process. What it answers: `judge` the outcome and its detail, `run` one answer a call."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-S", "-B", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONHASHSEED": "0"},
        )

    def judge(self, program: str, tests: str, seconds: float = 5.0) -> tuple[str, str]:
        outcome, detail = self._ask({"program": program, "tests": tests, "seconds": seconds})
        return outcome, detail

    def run(self, program: str, frames: list[bytes], handles: bool = False, seconds: float = 5.0) -> list[bytes]:
        """The frames with which a candidate answers: the greeting, then one to each frame; shorter if it ends early."""
        texts = [frame.decode("ascii") for frame in frames]
        answers = self._ask({"program": program, "frames": texts, "handles": handles, "seconds": seconds})
        return [answer.encode("ascii") for answer in answers]

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()

    def _ask(self, job: dict[str, Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class _Child:
    """A forked role and our end of its channel."""

    def __init__(self, serve: Any, job: bytes, deadline: float) -> None:
        self._deadline = deadline
        near_read, far_write = os.pipe()
        far_read, near_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            null = os.open("/dev/null", os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            os.dup2(far_read, 30)
            os.dup2(far_write, 31)
            os.closerange(3, 30)
            try:
                serve(lambda: _read(30), lambda frame: _write(31, frame))
            finally:
                os._exit(0)
        os.close(far_read)
        os.close(far_write)
        self._in, self._out = near_read, near_write
        self.send(job)

    def send(self, frame: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):
            _write(self._out, frame)

    def receive(self) -> bytes:
        return _read(self._in, self._deadline)

    def speaks(self) -> bool:
        return bool(select.select([self._in], [], [], 0)[0])

    def end(self) -> None:
        os.close(self._in)
        os.close(self._out)
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


def _write(descriptor: int, frame: bytes) -> None:
    view = memoryview(len(frame).to_bytes(4, "little") + frame)
    while view:
        view = view[os.write(descriptor, view) :]


def _read(descriptor: int, deadline: float | None = None) -> bytes:
    data, count = b"", 4
    while len(data) < count:
        if deadline is not None and not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        part = os.read(descriptor, count - len(data))
        if not part:
            return b""
        data += part
        if len(data) == 4 and count == 4:
            count += int.from_bytes(data, "little")
            if count > _LARGEST:
                raise ValueError("a frame that is too large")
    return data[4:]


def _answers(roles: Any, job: dict[str, Any]) -> list[str]:
    candidate, protocol = roles
    child = _Child(candidate.serve, protocol.program(job["program"], job["handles"]), time.monotonic() + job["seconds"])
    try:
        answers = [child.receive()]
        for frame in job["frames"]:
            child.send(frame.encode("ascii"))
            answers.append(child.receive())
            if not answers[-1]:
                break
        return [answer.decode("ascii", "replace") for answer in answers if answer]
    finally:
        child.end()


def _verdict(roles: Any, judge: Any, job: dict[str, Any]) -> tuple[str, str]:
    candidate, protocol = roles
    deadline = time.monotonic() + job["seconds"]
    program = _Child(candidate.serve, protocol.program(job["program"], True), deadline)
    tests = None
    try:
        frame = program.receive()
        if not frame:
            return "crash", "before it was ready"
        names = protocol.greeting(frame)
        if isinstance(names, protocol.Failure):
            return "fail", str(names)
        tests = _Child(judge.serve, protocol.tests(job["tests"], names), deadline)
        while question := tests.receive():
            verdict = protocol.verdict(question)
            if program.speaks():
                return "tamper", "an answer that was not asked for"
            if verdict is not None:
                return verdict
            program.send(question)
            reply = program.receive()
            if not reply:
                return "crash", "the program ended in a call"
            tests.send(reply)
        return "infrastructure", "the judge ended"
    except TimeoutError:
        return "timeout", ""
    except ValueError as error:  # Malformed, or a frame that is too large
        return "tamper", str(error)
    finally:
        program.end()
        if tests is not None:
            tests.end()


def _serve() -> None:
    for name, path in (("eco", FOLDER.parent), ("eco.sandbox", FOLDER)):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package
    from eco.sandbox import candidate, judge, protocol

    for line in sys.stdin:
        job = json.loads(line)
        answer = _verdict((candidate, protocol), judge, job) if "tests" in job else _answers((candidate, protocol), job)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
