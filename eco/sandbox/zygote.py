"""The small process that forks a child for every run, and stands between it and the host.

Started as `python zygote.py SETTINGS`, it imports the standard library and the sandbox's inside, never torch. The next
child is forked, walled in and waiting before its job comes. What passes between host and child is relayed as bytes that
are not looked at, through buffers that are wiped after each run, so that the next child's memory holds nothing of it.

A message on either stream of the host: its kind (1 byte), a length (4 bytes, little-endian), and so many bytes.
"""

import gc
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import select
import signal
import socket
import struct
import sys
import time
import types
from typing import Any, NoReturn

START, DATA, STOP, READY, OUTPUT, ENDED = range(1, 7)
"""START (float64: seconds that the run may last), DATA (to or from the child), STOP (the run is over), READY (the first
child stands in its walls), OUTPUT (what the run printed), ENDED (JSON: how the child ended)."""

HEADER = struct.Struct("<BI")
_CHUNK = 1 << 16
_SETUP_S = 10.0  # until the first child's walls stand; those of later ones count towards their run
_DEATH_S = 1.0  # how long a child that has closed its channel may take to die by itself
_AHEAD = 2  # children that wait or build their walls: a run that follows at once finds them standing
_REAP_S = 0.02  # how often an idle zygote looks whether those that it killed are dead
_NOTHING = memoryview(b"")

_PRELOADED = (
    "abc bisect cmath collections collections.abc copy dataclasses datetime decimal enum fractions functools hashlib "
    "heapq itertools json math operator random re statistics string textwrap typing"
)
"""What programs import most: a child finds them loaded."""


class _HostGone(Exception):
    pass


class Child:
    """A forked process within its walls: its pid, and this side's ends of the channel and of its output."""

    def __init__(self, settings: dict[str, Any], inside: types.SimpleNamespace) -> None:
        near, far = socket.socketpair()
        self.output, output = os.pipe()
        self.pid: int = inside.isolation.fork(settings["level"])
        if self.pid == 0:
            _live(settings, inside, far.fileno(), output)
        far.close()
        os.close(output)
        self.channel = near.detach()
        self.walled = False
        os.set_blocking(self.channel, False)
        os.set_blocking(self.output, False)

    def kill(self) -> None:
        """Kills the group (at `full` the kernel kills the whole pid namespace), and the child where it has none yet."""
        for kill in (os.killpg, os.kill):
            try:
                kill(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue

    def close(self) -> None:
        os.close(self.channel)
        os.close(self.output)

    def death(self) -> dict[str, float]:
        """Exit status (negative: the signal) and CPU seconds, when it dies within a moment."""
        end = time.monotonic() + _DEATH_S
        while time.monotonic() < end:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                return {"status": os.waitstatus_to_exitcode(status), "cpu": usage.ru_utime + usage.ru_stime}
            time.sleep(0.0005)
        return {}


def _live(settings: dict[str, Any], inside: types.SimpleNamespace, channel: int, output: int) -> NoReturn:
    """The whole life of a child."""
    try:
        inside.channel.take(channel, output)
        try:
            inside.isolation.isolate(settings)
        except BaseException as error:
            inside.channel.send(b"-" + str(error).encode(errors="replace"))
            os._exit(1)
        gc.enable()
        _warm_up()
        inside.channel.send(b"+")
        inside.role.serve(inside.channel.read_frame, inside.channel.write_frame)
    finally:
        os._exit(0)


def _warm_up() -> None:
    """Does once what every run does: the pages that it writes to are copied while the child still waits."""
    names: dict[str, Any] = {}
    exec(compile("def f(x):\n    return [x]", "<warm-up>", "exec"), names)
    json.loads(json.dumps(names["f"]({"a": 1.5, "b": "c"})))


class Zygote:
    """The relay between the host's two streams and one child at a time."""

    def __init__(self, settings: dict[str, Any], inside: types.SimpleNamespace, source: int, sink: int) -> None:
        self._settings = settings
        self._inside = inside
        self._source, self._sink = source, sink
        self._incoming = memoryview(bytearray(_CHUNK))
        self._outgoing = memoryview(bytearray(HEADER.size + _CHUNK))
        self._left = 0  # bytes of the present DATA message that the host has still to send
        self._heard = self._said = 0  # bytes of the buffers that were used since they were wiped
        self._room = 0  # bytes of output that may still be passed on
        self._dying: list[int] = []

    def serve(self) -> None:
        """Serves run after run until the host closes its end."""
        waiting = [Child(self._settings, self._inside)]
        try:
            self._await_walls(waiting[0])
            self._tell(READY, b"")
            while True:
                while len(waiting) < _AHEAD:
                    waiting.append(Child(self._settings, self._inside))
                report = self._run(waiting[0], self._await_start())
                self._tell(ENDED, json.dumps(report).encode())
                self._wipe()
                del waiting[0]
                self._reap()
        except (_HostGone, BrokenPipeError):
            for child in waiting:
                child.kill()

    def _wipe(self) -> None:
        """Zeros what the run used of the buffers and no more, as each page touched after a fork has to be copied."""
        self._incoming[: self._heard] = bytes(self._heard)
        self._outgoing[: self._said] = bytes(self._said)
        self._heard = self._said = 0

    def _await_walls(self, child: Child) -> None:
        ready, _, _ = select.select([child.channel], [], [], _SETUP_S)
        failure = self._failure(child) if ready else "it took too long"
        if failure is not None:
            sys.exit(failure)

    def _failure(self, child: Child) -> str | None:
        """The child's first words: why its walls do not stand, None when they do."""
        if os.read(child.channel, 1) == b"+":
            child.walled = True
            return None
        return os.read(child.channel, 1000).decode(errors="replace") or "the child died while its walls were built"

    def _await_start(self) -> float:
        while self._dying and not select.select([self._source], [], [], _REAP_S)[0]:
            self._reap()
        while True:
            while self._left:  # the rest of what was sent to a run that had ended
                self._left -= len(self._read(min(self._left, _CHUNK)))
            kind, count = HEADER.unpack(self._read(HEADER.size))
            if kind == START:
                return float(struct.unpack("<d", self._read(count))[0])
            self._left = count

    def _read(self, count: int) -> memoryview:
        """So many bytes from the host."""
        done = 0
        while done < count:
            done += self._receive(done, count)
        return self._incoming[:count]

    def _receive(self, start: int, stop: int) -> int:
        """Reads from the host into a part of the buffer, and gives the number of bytes."""
        got = os.readv(self._source, [self._incoming[start:stop]])
        if not got:
            raise _HostGone
        self._heard = max(self._heard, start + got)
        return got

    def _tell(self, kind: int, body: bytes) -> None:
        self._flush(memoryview(HEADER.pack(kind, len(body)) + body))

    def _flush(self, data: memoryview) -> None:
        while data:
            select.select([], [self._sink], [])
            data = data[os.write(self._sink, data) :]

    def _run(self, child: Child, seconds: float) -> dict[str, Any]:
        """Relays until the run is over, kills the child, and tells how it ended.

        A direction is read only when all that was read before is written, so that nobody can fill this process's
        memory, and nothing here blocks but select, so that nobody can hold up the deadline. What was printed goes
        before what was answered, unless more is printed than is kept.
        """
        deadline = time.monotonic() + seconds
        self._room = self._settings["output_kb"] << 10
        to_child = to_host = _NOTHING
        speaking = [child.channel, child.output]
        report: dict[str, Any] = {}
        while not report:
            reading = ([] if to_host else speaking) + ([] if to_child else [self._source])
            writing = ([self._sink] if to_host else []) + ([child.channel] if to_child else [])
            left = deadline - time.monotonic()
            readable, writable, _ = select.select(reading, writing, [], max(0.0, left))
            if left <= 0:
                report = {"how": "timeout"}
            elif self._sink in writable:
                to_host = _write(self._sink, to_host)
            elif child.channel in writable:
                to_child = _write(child.channel, to_child)
            elif self._source in readable:
                to_child, stop = self._from_host()
                to_child = _write(child.channel, to_child)
                report = {"how": "stopped"} if stop else {}
            elif child.output in readable and (self._room or child.channel not in readable):
                to_host = self._from_child(child.output, OUTPUT)
                speaking = speaking if to_host else [child.channel]
                to_host = _write(self._sink, self._capped(to_host))
            elif child.channel in readable and not child.walled:
                failure = self._failure(child)
                report = {"how": "walls", "detail": failure} if failure else {}
            elif child.channel in readable:
                to_host = self._from_child(child.channel, DATA)
                report = {} if to_host else {"how": "died", **child.death()}
                to_host = _write(self._sink, to_host)
        self._flush(to_host)
        self._end(child, "status" in report)
        return report

    def _from_host(self) -> tuple[memoryview, bool]:
        """The next bytes for the child, and whether the host wants the run to end."""
        if not self._left:
            kind, self._left = HEADER.unpack(self._read(HEADER.size))
            if kind == STOP:
                return _NOTHING, True
        got = self._receive(0, min(self._left, _CHUNK))
        self._left -= got
        return self._incoming[:got], False

    def _from_child(self, source: int, kind: int) -> memoryview:
        """The next bytes from the child as a message for the host; nothing at their end."""
        try:
            got = os.readv(source, [self._outgoing[HEADER.size :]])
        except ConnectionResetError:  # it died with bytes for it still unread
            got = 0
        self._said = max(self._said, HEADER.size + got)
        HEADER.pack_into(self._outgoing, 0, kind, got)
        return self._outgoing[: HEADER.size + got] if got else _NOTHING

    def _capped(self, message: memoryview) -> memoryview:
        """As much of a message of output as may still be passed on; the rest is dropped, and the child not held up."""
        count = min(len(message) - HEADER.size, self._room)
        if count <= 0:
            return _NOTHING
        self._room -= count
        HEADER.pack_into(self._outgoing, 0, OUTPUT, count)
        return self._outgoing[: HEADER.size + count]

    def _end(self, child: Child, reaped: bool) -> None:
        if not reaped:
            child.kill()
            self._dying.append(child.pid)
        try:
            while self._room and (message := self._from_child(child.output, OUTPUT)):  # what it printed at last
                self._flush(self._capped(message))
        except BlockingIOError:
            pass
        child.close()

    def _reap(self) -> None:
        self._dying = [pid for pid in self._dying if os.waitpid(pid, os.WNOHANG) == (0, 0)]


def _write(descriptor: int, data: memoryview) -> memoryview:
    """Writes as much as can be written at once, and gives the rest back: nothing when the child's end is closed."""
    try:
        return data[os.write(descriptor, data) :] if data else data
    except BlockingIOError:
        return data
    except (BrokenPipeError, ConnectionResetError):  # the end of either is seen where it is read
        return _NOTHING


def _load(folder: str, role: str) -> types.SimpleNamespace:
    """The inside's modules by their usual names, without running the package's own code, which is the host's."""
    for name, path in (("eco", os.path.dirname(folder)), ("eco.sandbox", folder)):
        package = types.ModuleType(name)
        package.__path__ = [path]
        sys.modules[name] = package
    names = {"channel": "channel", "isolation": "isolation", "role": role}
    return types.SimpleNamespace(**{key: importlib.import_module(f"eco.sandbox.{name}") for key, name in names.items()})


class Lent(importlib.abc.MetaPathFinder):
    """Finds packages by their files: the folder that they lie in need not be readable."""

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        file = self._files.get(name)
        return importlib.util.spec_from_file_location(name, file) if file else None


def main() -> None:
    """Runs as a process of its own; the settings are the JSON object that `eco.sandbox.launch` makes."""
    settings = json.loads(sys.argv[1])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a host that ignores it hands that on, and nothing could be reaped
    source, sink = os.dup(0), os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    inside = _load(os.path.dirname(os.path.abspath(__file__)), settings["role"])
    for name in _PRELOADED.split():
        importlib.import_module(name)
    sys.meta_path.append(Lent(settings["packages"]))
    inside.isolation.prepare(settings)
    os.set_blocking(sink, False)
    gc.collect()
    gc.disable()
    gc.freeze()
    Zygote(settings, inside, source, sink).serve()


if __name__ == "__main__":
    main()
