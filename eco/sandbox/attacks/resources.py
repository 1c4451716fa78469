"""Attacks that take more than their share of time, memory, disk or patience. What they take is bounded."""

from eco.sandbox.attacks.contract import Attack

ATTACKS = [
    Attack(
        "infinite loop",
        "never ends",
        """
def attack(bait):
    while True:
        pass
""",
    ),
    Attack(
        "ignored signals",
        "catches every signal it can, and sleeps",
        """
import signal, time
def attack(bait):
    for number in range(1, 65):
        try:
            signal.signal(number, lambda *_: None)
        except (OSError, ValueError):
            pass
    end = time.monotonic() + 20
    while time.monotonic() < end:
        time.sleep(0.1)
""",
    ),
    Attack(
        "loop in C",
        "stays where no signal handler of Python runs",
        """
def attack(bait):
    return sum(range(10**12)) and ""
""",
    ),
    Attack(
        "stop itself",
        "freezes without using time: SIGSTOP to itself",
        """
import os, signal
def attack(bait):
    os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        pass
""",
    ),
    Attack(
        "loop while loading",
        "never comes to define anything",
        """
while True:
    pass
""",
    ),
    Attack(
        "memory bomb",
        "takes 1.2 GB and touches it",
        """
def attack(bait):
    return "%d MB" % (len(bytearray(b"x" * (1200 << 20))) >> 20)
""",
    ),
    Attack(
        "memory outside its address space",
        "fills memory files, which no limit of its own counts: 700 MB of them",
        """
import os
def attack(bait):
    held, piece, total = [], b"x" * (4 << 20), 0
    while total < 700 << 20:
        held.append(os.memfd_create("x"))
        total += os.write(held[-1], piece)
    return "%d MB of memory files" % (total >> 20)
""",
    ),
    Attack(
        "many threads",
        "starts 200 threads",
        """
import threading, time
def attack(bait):
    threading.stack_size(32768)
    release = threading.Event()
    started = []
    for _ in range(200):
        thread = threading.Thread(target=release.wait, args=(5,), daemon=True)
        thread.start()
        started.append(thread)
    release.set()
    return "%d threads" % len(started)
""",
    ),
    Attack(
        "disk fill",
        "writes 200 MB into files of 4 MB each, wherever it may",
        """
import os, tempfile
def attack(bait):
    total, made, piece = 0, [], b"x" * (4 << 20)
    for folder in [".", "/tmp", "/dev/shm", "/var/tmp", tempfile.gettempdir()]:
        try:
            while total < 200 << 20:
                made.append(os.path.join(folder, bait["mark"] + str(len(made))))
                with open(made[-1], "wb") as stream:
                    total += stream.write(piece)
        except OSError:
            continue
    for path in made:
        if os.path.exists(path):
            os.unlink(path)
    return total >= 200 << 20 and "%d MB" % (total >> 20)
""",
    ),
    Attack(
        "one large file",
        "writes a file of 100 MB",
        """
import os, signal, tempfile
def attack(bait):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for folder in [".", "/tmp", "/dev/shm", tempfile.gettempdir()]:
        path = os.path.join(folder, bait["mark"] + "-large")
        try:
            with open(path, "wb") as stream:
                for _ in range(25):
                    stream.write(b"x" * (4 << 20))
            return "100 MB in one file"
        except OSError:
            pass
        finally:
            if os.path.exists(path):
                os.unlink(path)
""",
    ),
    Attack(
        "many descriptors",
        "opens 2,000 files",
        """
import os
def attack(bait):
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(2000)]
    return "%d descriptors" % len(held)
""",
        uncontrolled=True,
    ),
    Attack(
        "output flood",
        "prints 300 MB, so that whoever reads it runs out of memory",
        """
import os, sys
def attack(bait):
    piece = b"x" * (1 << 20)
    for _ in range(150):
        os.write(1, piece)
        os.write(2, piece)
""",
    ),
    Attack(
        "huge result",
        "returns 200 MB",
        """
def attack(bait):
    return "x" * (200 << 20)
""",
    ),
    Attack(
        "endless answer",
        "writes without end into every descriptor, so also into that of the answers",
        """
import os
def attack(bait):
    piece = b"\\x7f" * 65536
    for _ in range(4000):
        for descriptor in range(0, 64):
            try:
                os.write(descriptor, piece)
            except OSError:
                pass
""",
    ),
]
