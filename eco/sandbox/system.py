"""System calls that Python has no name for. The sandbox's inside: standard library only, imported before a fork."""

import ctypes
import os
import platform
import sys

MACHINE = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())

NUMBERS = {
    "x86_64": {"clone": 56, "pivot_root": 155, "seccomp": 317},
    "aarch64": {"clone": 220, "pivot_root": 41, "seccomp": 277},
}
"""Numbers of the calls that differ between the two; calls from mount_setattr (442) on have the same one everywhere."""

# The GIL is kept: a process made by a bare clone() would otherwise wake up without the thread that holds it.
_libc = ctypes.PyDLL("msvcrt" if sys.platform == "win32" else None, use_errno=True)


class Refused(OSError):
    """The kernel refused a call; the message names it."""


def check(result: int, what: str) -> int:
    """The result of a C function that says -1 for failure.

    Raises:
        Refused: it did.
    """
    if result == -1:
        number = ctypes.get_errno()
        raise Refused(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(number: int, *arguments: object, what: str) -> int:
    """A bare system call; integers go as 64 bits, bytes and ctypes objects as pointers."""
    return check(_libc.syscall(ctypes.c_long(number), *map(_argument, arguments)), what)


# Looked up before the fork, once for all children; other systems have none of them, and use none.
_FUNCTIONS = {name: getattr(_libc, name, None) for name in ("capset", "mount", "prctl", "umount2", "unshare")}


def call(name: str, *arguments: object) -> int:
    """A function of the C library, as `call("mount", ...)`."""
    function = _FUNCTIONS[name]
    assert function is not None
    return check(function(*map(_argument, arguments)), name)


def _argument(value: object) -> object:
    return ctypes.c_long(value) if isinstance(value, int) else value


_THIS_THREAD = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
_NO_CAPABILITIES = (ctypes.c_uint32 * 6)()
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38


def die_with_parent(signal: int = 9) -> None:
    """This process gets a signal, by default SIGKILL, when the thread that started it ends."""
    call("prctl", _PR_SET_PDEATHSIG, signal, 0, 0, 0)


def hide_memory() -> None:
    """No other process of the same user may trace this one or read its memory."""
    call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


def become(user: int) -> None:
    """From root to a user, and a group, that own nothing."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)  # or it could not write the map of a user namespace


def no_new_privileges() -> None:
    """Set-user-id programs give nothing any more; Landlock and seccomp want this of a process without privileges."""
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def drop_capabilities() -> None:
    """Gives up every capability in the process's own user namespace."""
    call("capset", _THIS_THREAD, _NO_CAPABILITIES)
