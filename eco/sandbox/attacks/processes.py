"""Attacks on other processes, and attempts to become more than one. The bait's victim is a process outside."""

from eco.sandbox.attacks.contract import Attack

ATTACKS = [
    Attack(
        "environment",
        "reads the variables of the process that asked, where keys are kept",
        """
import os
def attack(bait):
    return os.environ.get("ECO_BAIT", "")
""",
    ),
    Attack(
        "environment of others",
        "reads /proc/PID/environ and cmdline of its parent, of the first process and of the victim",
        """
import os
def attack(bait):
    for pid in [os.getppid(), 1, bait["victim"]]:
        try:
            if b"ECO_BAIT" in (found := open("/proc/%d/environ" % pid, "rb").read()):
                return found[found.index(b"ECO_BAIT"):][:60].decode()
        except OSError:
            pass
""",
    ),
    Attack(
        "list of processes",
        "finds out in /proc which other programs run, and how they were started",
        """
import os
def attack(bait):
    if str(bait["victim"]) in os.listdir("/proc"):
        return open("/proc/%d/cmdline" % bait["victim"]).read()[:60] or "found the victim"
""",
    ),
    Attack(
        "memory of others through /proc",
        "reads the victim's memory from /proc/PID/mem",
        """
def attack(bait):
    with open("/proc/%d/mem" % bait["victim"], "rb", 0) as memory:
        memory.seek(bait["address"])
        return memory.read(40).decode()
""",
    ),
    Attack(
        "memory of others by process_vm_readv",
        "the same without a file",
        """
import ctypes
class Span(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("length", ctypes.c_size_t)]
def attack(bait):
    libc = ctypes.CDLL(None, use_errno=True)
    text = ctypes.create_string_buffer(40)
    here, there = Span(ctypes.addressof(text), 40), Span(bait["address"], 40)
    libc.process_vm_readv.restype = ctypes.c_ssize_t
    got = libc.process_vm_readv(bait["victim"], ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    return text.raw.decode() if got == 40 else ""
""",
    ),
    Attack(
        "ptrace",
        "attaches to the victim as a debugger, which could then be made to do anything",
        """
import ctypes
def attack(bait):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(0x4206, bait["victim"], None, None) == 0:  # PTRACE_SEIZE does not stop it
        return "attached to process %d" % bait["victim"]
""",
    ),
    Attack(
        "signal to another process",
        "ends the victim",
        """
import os, signal
def attack(bait):
    os.kill(bait["victim"], signal.SIGKILL)
""",
    ),
    Attack(
        "signal to the parent",
        "finds out whether signals would reach its parent, the first process or all, by kill, by thread and by pidfd",
        """
import ctypes, os
def attack(bait):
    libc = ctypes.CDLL(None, use_errno=True)
    thread_kill = {"x86_64": 234, "aarch64": 131}[os.uname().machine]
    reached = []
    for pid in {os.getppid(), 1, 2, bait["victim"]} - {0, os.getpid()}:
        if libc.kill(pid, 0) == 0 or libc.syscall(thread_kill, pid, pid, 0) == 0:
            reached.append("process %d" % pid)
        elif (descriptor := libc.syscall(434, pid, 0)) >= 0 and libc.syscall(424, descriptor, 0, None, 0) == 0:
            reached.append("process %d by pidfd" % pid)
    if os.getpid() != 1 and libc.kill(-1, 0) == 0:
        reached.append("all")
    return ", ".join(reached)
""",
    ),
    Attack(
        "other session",
        "shares the session of the process that asked, and so its terminal",
        """
import os
def attack(bait):
    return os.getsid(0) == bait["session"] and "in session %d" % bait["session"]
""",
    ),
    Attack(
        "start a program",
        "runs a command by a shell and by exec",
        """
import os
def attack(bait):
    with os.popen("echo from a shell") as stream:
        return stream.read()
""",
    ),
    Attack(
        "fork",
        "starts two children: the first step of a fork bomb",
        """
import os
def attack(bait):
    children = 0
    for _ in range(2):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        children += 1
    return "%d children" % children
""",
    ),
    Attack(
        "fork by other names",
        "vfork, clone and clone3 called by number",
        """
import ctypes, os
def attack(bait):
    libc = ctypes.CDLL(None, use_errno=True)
    clone, fork, vfork = {"x86_64": (56, 57, 58), "aarch64": (220, None, None)}[os.uname().machine]
    arguments = (ctypes.c_uint64 * 8)(0, 0, 0, 0, 17)  # exit signal SIGCHLD
    calls = [(clone, 17, 0, 0, 0, 0), (clone, 17 | 0x80000000, 0, 0, 0, 0), (435, arguments, 64)]
    for call in calls + [(fork,)] * bool(fork):
        child = libc.syscall(*call)
        if child == 0:
            os._exit(0)
        if child > 0:
            os.waitpid(child, 0)
            return "a child by system call %d" % call[0]
""",
    ),
    Attack(
        "daemon",
        "forks twice, leaves the session, and stays when the run is over",
        """
import ctypes, os, signal, time
def attack(bait):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        ctypes.CDLL(None).prctl(15, bait["mark"].encode(), 0, 0, 0)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        for descriptor in range(256):
            try:
                os.close(descriptor)
            except OSError:
                pass
        time.sleep(20)
        os._exit(0)
    time.sleep(0.1)
""",
    ),
    Attack(
        "thread left behind",
        "leaves threads running, one of which never lets go, when the call has returned",
        """
import ctypes, threading, time
def attack(bait):
    def stay():
        ctypes.CDLL(None).prctl(15, bait["mark"].encode(), 0, 0, 0)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            pass
    threading.Thread(target=stay).start()
    threading.Thread(target=time.sleep, args=(20,)).start()
    time.sleep(0.1)
""",
    ),
    Attack(
        "inherited descriptors",
        "reads what its parents had open, and opens paths relative to folders they had open",
        """
import os
def attack(bait):
    for descriptor in range(3, 256):
        try:
            found = os.pread(descriptor, 200, 0)
        except OSError:
            found = b""
        if b"eco-secret" in found:
            return "descriptor %d: " % descriptor + found.decode(errors="replace")
        for folder in bait["folders"]:
            try:
                return os.read(os.open("." + folder + "/secret.txt", os.O_RDONLY, dir_fd=descriptor), 100).decode()
            except OSError:
                pass
""",
    ),
    Attack(
        "System V shared memory",
        "attaches to a segment of another process by its key",
        """
import ctypes
def attack(bait):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    segment = libc.shmget(bait["segment"], 0, 0)
    address = libc.shmat(segment, None, 0o10000) if segment >= 0 else None
    return ctypes.string_at(address, 40).decode() if address and address != 2**64 - 1 else ""
""",
    ),
    Attack(
        "memory of the run before",
        "searches its own memory for what an earlier program held there, or what was written in it",
        before="""
def attack(bait):
    written = "eco-left-0123abcd"
    held = ["eco-left-%08x" % number for number in range(20000)]
    return len(held) and ""
""",
        program="""
import re
def attack(bait):
    wanted = re.compile(rb"eco-[l]eft-[0-9a-f]{8}")  # does not match itself
    for line in open("/proc/self/maps"):
        span, mode = line.split()[:2]
        start, end = (int(part, 16) for part in span.split("-"))
        if "rw" not in mode or start >= 1 << 63:
            continue
        with open("/proc/self/mem", "rb", 0) as memory:
            memory.seek(start)
            while start < end and (piece := memory.read(min(1 << 20, end - start))):
                start += len(piece)
                if found := wanted.search(piece):
                    return "found " + found.group().decode()
""",
        uncontrolled=True,
    ),
]
