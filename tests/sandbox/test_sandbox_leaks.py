"""Nothing is left: no process, descriptor or file, whoever dies first; and nothing of one run in another's memory."""

import contextlib
import gc
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from eco.sandbox import Call, Limits, Sandbox

MARK = f"eco-left-{secrets.token_hex(4)}"
PROGRAMS = [
    "def f(): return 1",
    "def f(:",
    "import os\nos._exit(3)",
    f"def f():\n    for i in range(50): open(f'/tmp/{MARK}-{{i}}', 'w').write('x' * 1000)",
    "import threading, time\nfor _ in 'abcd': threading.Thread(target=time.sleep, args=(60,)).start()\ndef f(): pass",
    "import os\nos.close(1)\ndef f(): return os.pipe()",
]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def descriptors():
    """What is open in this process. Other tests' leavings may be closed meanwhile, so only what is new can tell."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
    return found


def processes():
    return {child.pid for child in psutil.Process().children(recursive=True)}


def becomes(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return true


def check_nothing_is_left(runs):
    Sandbox(workers=1).close()  # what the first use of all loads
    gc.collect()
    open_before, processes_before = descriptors(), processes()
    with Sandbox(limits=Limits(seconds=4.0), workers=2) as sandbox:
        jobs = [(PROGRAMS[i % len(PROGRAMS)], [Call("f")]) for i in range(runs)]
        sandbox.run_many(jobs[:20])
        sandbox.judge_many([("def f(): return 1", "f()")] * 8)
        open_while, most = descriptors(), 2 * 2 * (2 + 2)  # workers x roles x (bwrap, zygote, two waiting children)
        kinds = {outcome.kind for (outcome,) in sandbox.run_many(jobs)}
        assert kinds == {"pass", "fail", "crash"}
        assert becomes(lambda: len(processes() - processes_before) <= most), processes()
        assert len(descriptors()) <= len(open_while)
    assert becomes(lambda: processes() <= processes_before), processes() - processes_before
    assert not descriptors() - open_before
    assert not list(Path("/tmp").glob(f"{MARK}*"))


def test_300_runs_leave_nothing():
    check_nothing_is_left(300)


@pytest.mark.slow
def test_10000_runs_leave_nothing():
    check_nothing_is_left(10_000)


HOST = """
import sys, threading
from eco.sandbox import Call, Limits, Sandbox
sandbox = Sandbox(limits=Limits(seconds=60, cpu_seconds=60), workers=2)
sandbox.judge("def f(): return 1", "f()")
threading.Thread(target=sandbox.run, args=("while True: pass", [Call("f")]), daemon=True).start()
sandbox.run("def f(): return 1", [Call("f")])
print("running", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_killed_host_takes_everything_along(number):
    host = subprocess.Popen(
        [sys.executable, "-c", HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert host.stdout.readline() == b"running\n"
        time.sleep(0.2)
        family = psutil.Process(host.pid).children(recursive=True)
        assert len(family) >= 6
        host.send_signal(number)
        host.stdin.close()
        assert becomes(lambda: not any(process.is_running() for process in family)), family
    finally:
        host.kill()
        host.wait()
        host.stdout.close()


FORKING = """
import os, time
if os.fork() == 0:
    time.sleep(60)
sys.stdin.read()
"""


@pytest.mark.parametrize("level", [None, "weak"])
def test_a_fork_of_the_host_does_not_keep_the_processes_of_a_killed_one(level):
    forking = HOST.replace("Sandbox(", f"Sandbox({level!r}, ", 1).replace("sys.stdin.read()", FORKING)
    command = [sys.executable, "-W", "ignore", "-c", forking]
    host = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    family, fork = [], []
    try:
        assert host.stdout.readline() == b"running\n"
        time.sleep(0.3)
        children = psutil.Process(host.pid).children()
        fork = [child for child in children if child.cmdline() == command]
        family = [child for child in psutil.Process(host.pid).children(recursive=True) if child not in fork]
        assert len(fork) == 1 and len(family) >= 6
        host.kill()
        assert becomes(lambda: not any(process.is_running() for process in family), 5.0), family
        assert fork[0].is_running()
    finally:
        host.kill()
        host.wait()
        host.stdin.close()
        host.stdout.close()
        for process in fork + family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def test_a_forgotten_sandbox_ends_with_its_process():
    forgetful = HOST.replace("sys.stdin.read()", "").replace("while True: pass", "pass")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", forgetful], capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"running\n", b"")


@pytest.mark.parametrize("level", [None, "weak"])
def test_closing_in_the_middle_of_a_run_leaves_no_child(level):
    processes_before = processes()
    with Sandbox(level, limits=Limits(seconds=60), workers=1) as sandbox:
        outcomes = []
        sleeping = "import time\ndef f():\n    print('asleep', flush=True)\n    time.sleep(60)"
        thread = threading.Thread(target=lambda: outcomes.extend(sandbox.run(sleeping, [Call("f")])))
        thread.start()
        time.sleep(0.5)
        family = [psutil.Process(pid) for pid in processes() - processes_before]
        assert len(family) >= 3
    thread.join(5)
    assert [outcome.kind for outcome in outcomes] == ["infrastructure"]
    assert becomes(lambda: not any(process.is_running() for process in family), 5.0), family


def test_a_zygote_that_dies_is_replaced():
    processes_before = processes()
    with Sandbox(workers=1) as sandbox:
        program = ("def f(): return 1", [Call("f")])
        sandbox.run(*program)
        for pid in processes() - processes_before:
            os.kill(pid, signal.SIGKILL)
        (lost,) = sandbox.run(*program)
        assert lost.kind == "infrastructure" and lost.detail
        (found,) = sandbox.run(*program)
        assert found.value == 1


SEARCH = """
def f(first, second):
    first, second, found = first.encode(), second.encode(), 0  # never side by side in this program's own memory
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            low, high = (int(part, 16) for part in span.split("-"))
            if rights.startswith("r") and "[v" not in line:
                memory.seek(low)
                found += sum(part.startswith(second) for part in memory.read(high - low).split(first)[1:])
    return found
"""
# At `weak`, where /proc can be read; what is forked, relayed and wiped is the same at every level.


def test_nothing_of_a_run_is_in_the_memory_of_the_next():
    token = secrets.token_hex(16)
    with Sandbox("weak", workers=1) as sandbox:
        search = [Call("f", (token[:16], token[16:]))]
        (present,) = sandbox.run(f"{SEARCH}\nkept = '{token}'", search)
        assert present.kind == "pass" and present.value > 0
        for _ in range(3):
            assert sandbox.judge(f"def f(): return '{token}'", f"assert f() == '{token}'").kind == "pass"
            assert sandbox.run(SEARCH, search)[0].value == 0


def test_tests_are_not_in_the_memory_of_the_program_they_test():
    first, second = secrets.token_hex(8), secrets.token_hex(8)
    with Sandbox("weak", workers=1) as sandbox:
        for expected in (f"'{first}{second}'", "'x'"):
            verdict = sandbox.judge(SEARCH, f"expected = {expected}\nassert f('{first}', '{second}') == 0")
            assert verdict.kind == "pass", verdict
