"""The host's end of a zygote: starts the process, begins and stops runs, and exchanges frames with the child."""

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass

from eco.sandbox.protocol import FRAME
from eco.sandbox.zygote import DATA, ENDED, HEADER, OUTPUT, READY, START, STOP

_START_S = 20.0
_GRACE_S = 5.0
"""How long after a run's deadline the zygote may take to say so."""

_FAREWELL_S = 1.0
"""How long a process may take to end what runs in it, where nobody else does."""

_LENGTH = 4
_CHUNK = 1 << 16


class Broken(Exception):
    """The zygote died or does not answer; the message says what is known."""


class Flood(Exception):
    """The child sent a frame larger than any of ours."""


@dataclass
class Ended(Exception):
    """The child ended before it answered.

    how: stopped, timeout, died (then with status and cpu seconds, if it was seen to die), or walls.
    """

    how: str
    status: int | None = None
    cpu: float = 0.0
    detail: str = ""


class Process:
    """A running zygote. Not safe for threads; it dies with the thread that started it."""

    def __init__(
        self, command: list[str], environment: Mapping[str, str], farewell: list[str], orphans: bool = False
    ) -> None:
        """
        farewell: a command to run when the process has been ended, as a container outlives its client.
        orphans: whether what runs in it outlives it, so that it must be given the time to end that.

        Raises:
            Broken: it did not start, or its walls do not stand; the message says why.
        """
        self._farewell = farewell
        self._orphans = orphans
        try:
            with _STARTING:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environment,
                    cwd="/",
                    bufsize=0,
                    start_new_session=True,
                )
                _PROCESSES.add(self)
        except OSError as error:  # no descriptor, process or memory is left
            raise Broken(f"it cannot be started: {error}") from error
        self._closing = threading.Lock()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._sink, self._source = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._sink, False)
        self._deadline = time.monotonic() + _START_S
        self._received = bytearray()
        self._frames = bytearray()
        self._output: list[bytes] = []
        self._ended: Ended | None = Ended("stopped")  # None while a run lasts
        self._stale = 0  # runs that were stopped and of whose end nothing has come yet
        self._unsent: list[bytes] = []
        try:
            if self._message()[0] != READY:
                raise Broken("it does not speak our language")
        except BaseException:
            self.close()
            raise

    def begin(self, seconds: float) -> None:
        """Begins a run of so many seconds, sent together with the first frame."""
        self._deadline = time.monotonic() + seconds + _GRACE_S
        self._frames.clear()
        self._output.clear()
        self._ended = None
        self._unsent = [HEADER.pack(START, 8), struct.pack("<d", seconds)]

    def send(self, *frames: bytes) -> None:
        """Sends frames to the child; one that has ended does not get them."""
        parts, self._unsent = self._unsent, []
        for frame in frames:
            parts += [HEADER.pack(DATA, _LENGTH + len(frame)), len(frame).to_bytes(_LENGTH, "little"), frame]
        self._write(b"".join(parts))

    def receive(self) -> bytes:
        """The next frame of the child.

        Raises:
            Ended: it will send no more. Flood: see there. Broken: see there.
        """
        while True:
            if len(self._frames) >= _LENGTH:
                count = int.from_bytes(self._frames[:_LENGTH], "little")
                if count > FRAME:
                    raise Flood
                if len(self._frames) >= _LENGTH + count:
                    frame = bytes(self._frames[_LENGTH : _LENGTH + count])
                    del self._frames[: _LENGTH + count]
                    return frame
            if self._ended is not None:
                raise self._ended
            self._take(*self._message())

    def stop(self) -> str:
        """Ends the run, without waiting for its end, and gives what had been printed when the last frame came."""
        if self._ended is None:
            self._write(HEADER.pack(STOP, 0))
            self._ended = Ended("stopped")
            self._stale += 1
        return b"".join(self._output).decode("utf-8", "replace")

    def kill(self) -> None:
        """Ends the process and everything in it; whoever waits for it learns that. Safe from another thread."""
        if self._orphans:
            self._hang_up()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_FAREWELL_S)
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # bubblewrap may not kill what it started as root

    def _hang_up(self) -> None:
        """Closes the streams, of which another thread may wait for one: their numbers stay in use."""
        with self._closing, contextlib.suppress(OSError):  # without a descriptor to spare it is only killed
            if self._process.stdin is not None and not self._process.stdin.closed:
                null = os.open(os.devnull, os.O_RDWR)
                for descriptor in (self._sink, self._source):
                    os.dup2(null, descriptor, inheritable=False)
                os.close(null)

    def close(self) -> None:
        """As `kill`, and frees what the process had on this side."""
        self.kill()
        self._process.wait()
        if self._farewell:
            subprocess.run(self._farewell, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        with self._closing:
            self.close_streams()

    def close_streams(self) -> None:
        """All that a forked copy of the host may do: open there, they would hide the death of the host."""
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def _take(self, kind: int, body: bytes) -> None:
        if self._stale:
            self._stale -= kind == ENDED
        elif kind == DATA:
            self._frames += body
        elif kind == OUTPUT:
            self._output.append(body)
        elif kind == ENDED:
            self._ended = Ended(**json.loads(body))

    def _message(self) -> tuple[int, bytes]:
        while (message := self._complete()) is None:
            self._wait(writing=False)
            self._read()
        return message

    def _complete(self) -> tuple[int, bytes] | None:
        """The next message, if all of it has come."""
        if len(self._received) < HEADER.size:
            return None
        kind, count = HEADER.unpack_from(self._received)
        if len(self._received) < HEADER.size + count:
            return None
        body = bytes(self._received[HEADER.size : HEADER.size + count])
        del self._received[: HEADER.size + count]
        return kind, body

    def _read(self) -> None:
        data = os.read(self._source, _CHUNK)
        if not data:
            raise Broken(self._last_words())
        self._received += data

    def _write(self, data: bytes) -> None:
        """Reads while it writes: neither side may wait for the other for ever."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._sink, rest) :]
            except BlockingIOError:
                if self._wait(writing=True):
                    self._read()
                    while self._stale and (message := self._complete()):  # no matter how much a stopped run says
                        self._take(*message)
                    if len(self._received) > 2 * FRAME:
                        raise Flood from None
            except BrokenPipeError:
                raise Broken(self._last_words()) from None

    def _wait(self, writing: bool) -> bool:
        """Until there is something to read or, where that is asked, room to write; whether it is something to read."""
        poll = select.poll()  # not select, which knows no descriptor above 1023
        poll.register(self._source, select.POLLIN)
        if writing:
            poll.register(self._sink, select.POLLOUT)
        ready = poll.poll(max(0.0, self._deadline - time.monotonic()) * 1000)
        if not ready:
            raise Broken("it does not answer")
        return any(descriptor == self._source for descriptor, _ in ready)

    def _last_words(self) -> str:
        assert self._process.stderr is not None
        try:
            status = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            return "it closed its streams"
        words = os.read(self._process.stderr.fileno(), 4096).decode(errors="replace").strip()
        return words or f"it ended with status {status}"


_PROCESSES: weakref.WeakSet[Process] = weakref.WeakSet()
_STARTING = threading.RLock()
"""Held over a fork of the host, which would else have the streams of a process that is not known yet."""


def _after_fork() -> None:
    _STARTING.release()
    for process in _PROCESSES:
        process.close_streams()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_STARTING.acquire, after_in_parent=_STARTING.release, after_in_child=_after_fork)
