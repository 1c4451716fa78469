"""seccomp: the system calls that a run may make. What is not listed is refused, so that new calls are refused, too.

The filter is a classic BPF program (https://docs.kernel.org/userspace-api/seccomp_filter.html), assembled here.
"""

import ctypes
import errno
import functools
import struct
from collections.abc import Iterable

from eco.sandbox.system import MACHINE, NUMBERS, syscall

_ALLOWED = {
    "x86_64": """
        read 0 write 1 open 2 close 3 stat 4 fstat 5 lstat 6 poll 7 lseek 8 mmap 9 mprotect 10 munmap 11 brk 12
        rt_sigaction 13 rt_sigprocmask 14 rt_sigreturn 15 pread64 17 pwrite64 18 readv 19 writev 20 access 21 pipe 22
        select 23 sched_yield 24 mremap 25 msync 26 mincore 27 madvise 28 dup 32 dup2 33 pause 34 nanosleep 35
        getitimer 36 alarm 37 setitimer 38 getpid 39 sendto 44 recvfrom 45 shutdown 48 exit 60 wait4 61 uname 63
        fsync 74 fdatasync 75 truncate 76 ftruncate 77 getdents 78 getcwd 79 chdir 80 fchdir 81 rename 82 mkdir 83
        rmdir 84 unlink 87 symlink 88 readlink 89 chmod 90 fchmod 91 umask 95 gettimeofday 96 getrlimit 97 getrusage 98
        sysinfo 99 times 100 getuid 102 getgid 104 geteuid 107 getegid 108 getppid 110 getpgrp 111 getgroups 115
        getresuid 118 getresgid 120 getpgid 121 getsid 124 rt_sigpending 127 rt_sigtimedwait 128 rt_sigsuspend 130
        sigaltstack 131 getpriority 140 gettid 186 time 201 futex 202 sched_getaffinity 204 epoll_create 213
        getdents64 217 set_tid_address 218 restart_syscall 219 timer_create 222 timer_settime 223 timer_gettime 224
        timer_getoverrun 225 timer_delete 226 clock_gettime 228 clock_getres 229 clock_nanosleep 230 exit_group 231
        epoll_wait 232 epoll_ctl 233 waitid 247 openat 257 mkdirat 258 newfstatat 262 unlinkat 263 renameat 264
        symlinkat 266 readlinkat 267 fchmodat 268 faccessat 269 pselect6 270 ppoll 271 set_robust_list 273
        utimensat 280 epoll_pwait 281 fallocate 285 eventfd2 290 epoll_create1 291 dup3 292 pipe2 293 preadv 295
        pwritev 296 renameat2 316 getrandom 318 statx 332 rseq 334 close_range 436 faccessat2 439 futex_waitv 449
    """,
    "aarch64": """
        getcwd 17 eventfd2 19 epoll_create1 20 epoll_ctl 21 epoll_pwait 22 dup 23 dup3 24 mkdirat 34 unlinkat 35
        symlinkat 36 renameat 38 truncate 45 ftruncate 46 fallocate 47 faccessat 48 chdir 49 fchdir 50 fchmod 52
        fchmodat 53 openat 56 close 57 pipe2 59 getdents64 61 lseek 62 read 63 write 64 readv 65 writev 66 pread64 67
        pwrite64 68 preadv 69 pwritev 70 pselect6 72 ppoll 73 readlinkat 78 newfstatat 79 fstat 80 fsync 82
        fdatasync 83 utimensat 88 exit 93 exit_group 94 waitid 95 set_tid_address 96 futex 98 set_robust_list 99
        nanosleep 101 getitimer 102 setitimer 103 timer_create 107 timer_gettime 108 timer_getoverrun 109
        timer_settime 110 timer_delete 111 clock_gettime 113 clock_getres 114 clock_nanosleep 115 sched_getaffinity 123
        sched_yield 124 restart_syscall 128 sigaltstack 132 rt_sigsuspend 133 rt_sigaction 134 rt_sigprocmask 135
        rt_sigpending 136 rt_sigtimedwait 137 rt_sigreturn 139 getpriority 141 getresuid 148 getresgid 150 times 153
        getpgid 155 getsid 156 getgroups 158 uname 160 getrlimit 163 getrusage 165 umask 166 gettimeofday 169 getpid 172
        getppid 173 getuid 174 geteuid 175 getgid 176 getegid 177 gettid 178 sysinfo 179 sendto 206 recvfrom 207
        shutdown 210 brk 214 munmap 215 mremap 216 mmap 222 mprotect 226 msync 227 mincore 232 madvise 233 wait4 260
        renameat2 276 getrandom 278 statx 291 rseq 293 close_range 436 faccessat2 439 futex_waitv 449
    """,
}
_CHANGING = {
    "truncate", "chmod", "fchmod", "fchmodat", "utimensat", "rename", "renameat", "renameat2", "mkdir", "mkdirat",
    "rmdir", "unlink", "unlinkat", "symlink", "symlinkat",
}  # fmt: skip
"""Calls that change files by name or descriptor; Landlock knows nothing of modes and times."""

_SPECIAL = {
    "x86_64": {"clone": 56, "kill": 62, "tgkill": 234, "fcntl": 72, "ioctl": 16, "socketpair": 53, "prctl": 157,
               "prlimit64": 302, "clone3": 435},
    "aarch64": {"clone": 220, "kill": 129, "tgkill": 131, "fcntl": 25, "ioctl": 29, "socketpair": 199, "prctl": 167,
                "prlimit64": 261, "clone3": 435},
}  # fmt: skip
"""Calls that are allowed for some of their arguments."""

_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE_THREAD, _NEW_NAMESPACES = 0x00010000, 0x7E020080
_AF_UNIX, _PR_SET_NAME, _PR_GET_NAME = 1, 15, 16
_STREAMS = [1 | flags for flags in (0, 0x800, 0x80000, 0x80800)]  # SOCK_STREAM with SOCK_NONBLOCK and SOCK_CLOEXEC
_F_DUPFD, _F_SETFL, _F_DUPFD_CLOEXEC, _F_GETPIPE_SZ = 0, 4, 1030, 1032
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
_UNKNOWN = 463
"""From this call on (Linux 6.12) the answer is that the kernel does not know it, so that libraries use an older one."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NUMBER, _ARCH = 0, 4


_Code = list[bytes]


@functools.cache
def program(pid: int, changes: bool) -> bytes:
    """The filter's instructions.

    pid: the only process to which signals may be sent; changes: whether calls that change files by name are allowed.
    """
    words = iter(_ALLOWED[MACHINE].split())
    numbers = {name: int(next(words)) for name in words}
    allowed = {number: [_return(_ALLOW)] for name, number in numbers.items() if changes or name not in _CHANGING}
    special = _SPECIAL[MACHINE]
    kill = _allow_if(0, [pid])
    commands = [*range(_F_DUPFD, _F_SETFL + 1), _F_DUPFD_CLOEXEC, _F_GETPIPE_SZ]
    rules: dict[int, _Code] = {
        **allowed,
        special["kill"]: kill,
        special["tgkill"]: kill,
        special["prlimit64"]: _allow_if(0, [0, pid]),
        special["ioctl"]: _allow_if(1, _IOCTLS),
        special["fcntl"]: _allow_if(1, commands),
        special["socketpair"]: _stream_pairs(),
        special["prctl"]: _allow_if(0, [_PR_SET_NAME, _PR_GET_NAME]),
        special["clone"]: _only_threads(),
        special["clone3"]: [_refuse(errno.ENOSYS)],  # its flags lie in memory, out of a filter's reach
    }
    start = [
        _instruction(_LOAD, value=_ARCH),
        _instruction(_EQUAL, 1, 0, _ARCHITECTURE[MACHINE]),
        _return(_KILL),
        _instruction(_LOAD, value=_NUMBER),
    ]
    return b"".join(start + _tree(_intervals(rules)))


def install(instructions: bytes) -> None:
    """Filters every later system call of this process; needs `no_new_privileges`."""
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    header = struct.pack("HxxxxxxQ", len(instructions) // 8, ctypes.addressof(buffer))
    syscall(NUMBERS[MACHINE]["seccomp"], 1, 0, header, what="seccomp")  # SECCOMP_SET_MODE_FILTER


def _intervals(rules: dict[int, _Code]) -> list[tuple[int, _Code]]:
    """(first number, what happens from there on) for all numbers, neighbours with the same code together."""
    result: list[tuple[int, _Code]] = [(0, [])]
    for number in range(_UNKNOWN):
        code = rules.get(number, [_refuse(errno.EPERM)])
        if code != result[-1][1]:
            result.append((number, code))
    return [*result[1:], (_UNKNOWN, [_refuse(errno.ENOSYS)])]


def _tree(intervals: list[tuple[int, _Code]]) -> _Code:
    """A binary search: the kernel tries every number when a filter is installed, which takes longer than most runs
    when they are compared one after the other."""
    if len(intervals) == 1:
        return intervals[0][1]
    middle = len(intervals) // 2
    below, above = _tree(intervals[:middle]), _tree(intervals[middle:])
    return [_instruction(_AT_LEAST, len(below), 0, intervals[middle][0]), *below, *above]


def _instruction(operation: int, true: int = 0, false: int = 0, value: int = 0) -> bytes:
    """A conditional jump skips so many instructions where its condition is true, and where it is false."""
    return struct.pack("HBBI", operation, true, false, value)


def _return(value: int) -> bytes:
    return _instruction(_RETURN, value=value)


def _refuse(error: int) -> bytes:
    return _return(0x00050000 | error)  # SECCOMP_RET_ERRNO


def _allow_if(argument: int, values: Iterable[int]) -> _Code:
    """Allows the call when the low word of an argument is one of `values`: the kernel takes these as 32 bits."""
    code = [_instruction(_LOAD, value=16 + 8 * argument)]
    for value in values:
        code += [_instruction(_EQUAL, 0, 1, value), _return(_ALLOW)]
    return [*code, _refuse(errno.EPERM)]


def _stream_pairs() -> _Code:
    """Either end of a pair of datagram sockets could send to any socket of the host that it can name."""
    family = [_instruction(_LOAD, value=16), _instruction(_EQUAL, 1, 0, _AF_UNIX), _refuse(errno.EPERM)]
    return family + _allow_if(1, _STREAMS)


def _only_threads() -> _Code:
    """A thread of this process is allowed, another process or a namespace is not."""
    return [
        _instruction(_LOAD, value=16),
        _instruction(_ANY_BIT, 2, 0, _NEW_NAMESPACES),
        _instruction(_ANY_BIT, 0, 1, _CLONE_THREAD),
        _return(_ALLOW),
        _refuse(errno.EPERM),
    ]
