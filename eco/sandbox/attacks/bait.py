"""What attacks aim at: secrets, files, listeners and a process outside, and the look at what became of them.

Whether an attack succeeded is seen here, outside, wherever it leaves a trace; only what leaves none (a namespace of its
own, say) rests on the attack's word.
"""

import contextlib
import ctypes
import glob
import os
import re
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from eco.machine.settings import is_glibc

VARIABLE = "ECO_BAIT"
IPC_REMOVE, SEGMENT_BYTES = 0, 64
DYING_S = 0.5
"""How long a process that was killed may take to be gone."""

VICTIM = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
if sys.platform == "linux":
    anybody = ctypes.c_ulong((1 << 64) - 1)
    libc.prctl(0x59616D61, anybody, 0, 0, 0)  # PR_SET_PTRACER: where Yama guards ptrace, this process does not
held = ctypes.create_string_buffer(os.environ["ECO_BAIT"].encode())
print(ctypes.addressof(held), flush=True)
sys.stdin.read()
"""
"""Holds the secret in its memory and environment, says where, and waits until its input ends."""

State = dict[str, tuple[int, int, int, int, bytes]]
"""Path -> mode, links, time of change in ns, owner, content."""


class Bait:
    """Sets up everything that attacks aim at, and takes it away at the end.

    secret: what must not come out. aim: what an attack is told, all of it harmless to know.
    """

    def __init__(self) -> None:
        self.secret = f"eco-secret-{secrets.token_hex(16)}"
        mark = f"eco{secrets.token_hex(5)}"  # 13 characters: a process's name has 15
        self.folders = [Path(tempfile.mkdtemp(prefix=mark)), Path(tempfile.mkdtemp(prefix=f".{mark}", dir=_home()))]
        for folder in self.folders:
            (folder / "secret.txt").write_text(self.secret)
        self._tcp, self._unix, self._abstract = (
            socket.socket(family) for family in (socket.AF_INET, *[socket.AF_UNIX] * 2)
        )
        self._udp, self._datagram = (
            socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_UNIX)
        )
        self._listen(mark)
        self._folder_descriptor = os.open("/", os.O_RDONLY)
        self._secret_descriptor = os.open(self.folders[0] / "secret.txt", os.O_RDONLY)
        for descriptor in (self._folder_descriptor, self._secret_descriptor):
            os.set_inheritable(descriptor, True)
        self._variable = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = self.secret
        self._segment = _share(self.secret)
        self._victim: subprocess.Popen[bytes] | None = None
        self.aim: dict[str, Any] = {
            "tcp": self._tcp.getsockname()[1],
            "udp": self._udp.getsockname()[1],
            "unix": str(self.folders[0] / "socket"),
            "datagram": str(self.folders[1] / "datagrams"),
            "abstract": mark,
            "folders": [str(folder) for folder in self.folders],
            "segment": self._segment[0],
            "session": os.getsid(0),
            "packages": sysconfig.get_paths()["purelib"],
            "mark": mark,
        }
        self.set_out()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release_victim()
        _unshare(self._segment[1])
        for path in self._left(messages=True):
            Path(path).unlink()
        if self._variable is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = self._variable
        for descriptor in (self._folder_descriptor, self._secret_descriptor):
            os.close(descriptor)
        for _, listener in self._listeners():
            listener.close()
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)

    def set_out(self) -> None:
        """Repairs what the attack before broke, and remembers how everything is now."""
        for folder in self.folders:
            for path in folder.iterdir():
                if path.name not in ("secret.txt", "changeable.txt", "socket", "datagrams"):
                    path.unlink()
            (folder / "secret.txt").write_text(self.secret)
            (folder / "changeable.txt").write_text("as it was")
            (folder / "changeable.txt").chmod(0o644)
        if self._victim is None or self._victim.poll() is not None:
            self._start_victim()
        self._files = self._look()
        if is_glibc():  # memory that the heap keeps would take in what the attack brings, and nothing would grow
            ctypes.CDLL(None).malloc_trim(0)
        with contextlib.suppress(OSError):  # from here on the peak is that of this attack
            Path("/proc/self/clear_refs").write_text("5")
        self._peak = _peak_mb()
        self._start = time.monotonic()

    def damage(self, seconds: float) -> list[str]:
        """What happened outside since `set_out`, in words. seconds: after so many, it was not stopped in time."""
        elapsed = time.monotonic() - self._start
        found = [f"reached the {name} listener" for name, listener in self._listeners() if _reached(listener)]
        files = self._look()
        found += [
            f"changed {Path(path).name}"
            for path in sorted(files.keys() | self._files.keys())
            if files.get(path) != self._files.get(path)
        ]
        found += [f"left process {pid}" for pid in self._survivors()]
        for path in self._left(messages=False):
            found.append(f"left {path}")
            Path(path).unlink()
        assert self._victim is not None
        if self._victim.poll() is not None:
            found.append("ended another process")
        if elapsed > seconds:
            found.append(f"ran for {elapsed:.1f} s")
        grown = _peak_mb() - self._peak
        if grown > 64:
            found.append(f"made this process grow by {grown:.0f} MB")
        return found

    def _listen(self, mark: str) -> None:
        self._tcp.bind(("127.0.0.1", 0))
        self._udp.bind(("127.0.0.1", 0))
        self._unix.bind(str(self.folders[0] / "socket"))
        self._datagram.bind(str(self.folders[1] / "datagrams"))
        if sys.platform == "linux":
            self._abstract.bind(f"\0{mark}")
        else:
            self._abstract.bind(str(self.folders[1] / "socket"))
        for _, listener in self._listeners():
            listener.setblocking(False)
            if listener.type == socket.SOCK_STREAM:
                listener.listen()

    def _listeners(self) -> list[tuple[str, socket.socket]]:
        return [
            ("TCP", self._tcp),
            ("UDP", self._udp),
            ("Unix", self._unix),
            ("Unix datagram", self._datagram),
            ("abstract Unix", self._abstract),
        ]

    def _start_victim(self) -> None:
        command = [sys.executable, "-I", "-S", "-c", VICTIM]
        self._victim = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._victim.stdout is not None
        self.aim |= {"victim": self._victim.pid, "address": int(self._victim.stdout.readline())}

    def _release_victim(self) -> None:
        assert self._victim is not None
        self._victim.kill()
        self._victim.communicate()

    def _look(self) -> State:
        state: State = {}
        for folder in self.folders:
            for path in sorted(folder.iterdir()):
                told = path.lstat()
                content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
                state[str(path)] = (told.st_mode, told.st_nlink, told.st_mtime_ns, told.st_uid, content)
        return state

    def _survivors(self) -> list[int]:
        """Processes that gave themselves the mark as a name and stay; they are ended once they are counted."""
        end = time.monotonic() + DYING_S
        while (found := _named(self.aim["mark"])) and time.monotonic() < end:
            time.sleep(0.01)
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        return found

    def _left(self, messages: bool) -> list[str]:
        """Files with the mark in their name in the places where everybody may write.

        messages: also those that wait for a later run.
        """
        places = {
            tempfile.gettempdir(),
            "/tmp",
            "/var/tmp",
            "/dev/shm",
            self.aim["packages"],
            str(_home()),
            os.getcwd(),
        }
        own = {str(folder) for folder in self.folders}
        found = {str(path) for place in places for path in Path(place).glob(f"*{self.aim['mark']}*")} - own
        return sorted(path for path in found if messages or not path.endswith("-message"))


def _named(name: str) -> list[int]:
    """Living processes of which a thread has this name."""
    found = set()
    for path in glob.iglob("/proc/[0-9]*/task/*/status"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            first, *lines = Path(path).read_text().splitlines()
            if first == f"Name:\t{name}" and "State:\tZ (zombie)" not in lines:
                found.add(int(path.split("/")[2]))
    return sorted(found)


def _peak_mb() -> float:
    """The most memory that this process had since the peak was reset, or ever where that cannot be done."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) / 1024
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _home() -> Path:
    home = Path.home()
    return home if os.access(home, os.W_OK) else Path.cwd()


def _reached(listener: socket.socket) -> bool:
    try:
        if listener.type == socket.SOCK_DGRAM:
            listener.recv(100)
        else:
            listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def _share(text: str) -> tuple[int, int]:
    """A System V segment that holds the text: its key and number, which is negative where there is no such thing."""
    libc = ctypes.CDLL(None)
    key = secrets.randbelow(1 << 30) + 1
    segment = libc.shmget(key, SEGMENT_BYTES, 0o1666)  # IPC_CREAT, for everybody
    if segment >= 0:
        libc.shmat.restype = ctypes.c_void_p
        address = libc.shmat(segment, None, 0)
        ctypes.memmove(address, text.encode(), len(text))
        libc.shmdt(ctypes.c_void_p(address))
    return key, segment


def _unshare(segment: int) -> None:
    if segment >= 0:
        ctypes.CDLL(None).shmctl(segment, IPC_REMOVE, None)
