"""What HumanEval's published checker (openai/human-eval, `check_correctness`) does: the benchmark's peer.

Written out from its description. As there, each check starts a manager process for one shared list and forks a process
that works in a folder of its own, takes away functions that could do harm, silences input and output, executes
program and tests together under an interval timer, and appends a word to the list.
"""

import builtins
import contextlib
import faulthandler
import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.managers import ListProxy
from types import FrameType

TAKEN_FROM_OS = (
    *("kill", "killpg", "system", "fork", "forkpty", "putenv", "setuid", "chroot", "getcwd", "chdir", "fchdir"),
    *("remove", "removedirs", "rmdir", "unlink", "rename", "renames", "replace", "truncate"),
    *("chmod", "fchmod", "lchmod", "chown", "fchown", "lchown", "lchflags"),
)
TAKEN_MODULES = ("ipdb", "joblib", "resource", "psutil", "tkinter")


class TimedOut(Exception):
    """The interval timer ran down."""


def check(program: str, tests: str, seconds: float = 3.0) -> str:
    """`passed`, `timed out` or `failed: ...` of a program followed by its tests."""
    context = multiprocessing.get_context("fork")  # the default of the Pythons it was written for
    with context.Manager() as manager:
        words = manager.list()
        process = context.Process(target=_work, args=(f"{program}\n{tests}\n", seconds, words))
        process.start()
        process.join(seconds + 1)
        if process.is_alive():
            process.kill()
            process.join()
        return str(words[0]) if words else "timed out"


def _work(source: str, seconds: float, words: "ListProxy[str]") -> None:
    with tempfile.TemporaryDirectory() as folder:
        before = os.getcwd()
        os.chdir(folder)
        kept = (os.chdir, os.rmdir, os.unlink, shutil.rmtree)  # the folder is taken away by means of these
        _take_away()
        words.append(_execute(source, seconds))
        os.chdir, os.rmdir, os.unlink, shutil.rmtree = kept
        os.chdir(before)


def _execute(source: str, seconds: float) -> str:
    try:
        with _silence(), _timer(seconds):
            exec(source, {})
        return "passed"
    except TimedOut:
        return "timed out"
    except BaseException as error:
        return f"failed: {error}"


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    stdin, nothing = sys.stdin, io.StringIO()
    sys.stdin = nothing
    try:
        with contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
            yield
    finally:
        sys.stdin = stdin


@contextlib.contextmanager
def _timer(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimedOut

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _take_away() -> None:
    faulthandler.disable()
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in ("exit", "quit", "help"):
        setattr(builtins, name, None)
    for name in TAKEN_FROM_OS:
        setattr(os, name, None)
    for name in ("rmtree", "move", "chown"):
        setattr(shutil, name, None)
    subprocess.Popen = None  # type: ignore[assignment, misc]
    for name in TAKEN_MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
