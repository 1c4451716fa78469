"""Namespaces: processes that see no other process, no network and no file but those bound for them."""

import ctypes
import os

from eco.sandbox.system import MACHINE, NUMBERS, Refused, call, syscall

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET, _SIGCHLD = 0x10000000, 0x20000000, 0x40000000, 17

_NOSUID, _NODEV, _NOEXEC, _BIND, _REC = 2, 4, 8, 4096, 16384
_PRIVATE = 1 << 18
_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE, _MOUNT_SETATTR = -100, 0x8000, 442


_outside = (0, 0)  # who the process was before the last clone; afterwards it is nobody until its map is written


def clone(user: bool = True) -> int:
    """Like os.fork, but the child is the first process of a new pid namespace and, with `user`, a new user namespace.

    One system call instead of unshare and a second fork. Only for a process with one thread. The other namespaces take
    the kernel longer: the child makes them (`leave`) while the parent goes on.

    Raises:
        Refused: the kernel or its settings forbid user namespaces.
    """
    global _outside
    _outside = (os.geteuid(), os.getegid())
    ctypes.pythonapi.PyOS_BeforeFork()
    try:
        flags = _NEWPID | _SIGCHLD | (_NEWUSER if user else 0)
        child = syscall(NUMBERS[MACHINE]["clone"], flags, 0, 0, 0, 0, what="clone of a namespace")
    except Refused:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
        raise
    if child:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    return child


def map_user(uid: int, gid: int) -> None:
    """After `clone`, in the child: the user becomes `uid`, and everybody else is nobody."""
    outside_uid, outside_gid = _outside
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {outside_uid} 1"),
        ("gid_map", f"{gid} {outside_gid} 1"),
    ):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def leave() -> None:
    """After `clone`, in the child: new mount, network, IPC, UTS and cgroup namespaces."""
    call("unshare", _NEWNS | _NEWNET | _NEWIPC | _NEWUTS | _NEWCGROUP)


def private_tmp(megabytes: int) -> None:
    """The only writable place of a run: an empty /tmp in memory. /proc disappears, and with it every other process."""
    call("mount", b"/empty", b"/proc", None, _BIND, None)
    options = f"size={megabytes}m,nr_inodes=1024,mode=700".encode()
    call("mount", b"tmpfs", b"/tmp", b"tmpfs", _NOSUID | _NODEV | _NOEXEC, options)
    os.chdir("/tmp")


def own_root(binds: list[str], masked: list[str], late: list[str], links: dict[str, str]) -> None:
    """What bubblewrap does where it is absent: a root in memory that holds `binds` of the old one, read-only.

    binds: folders and files that keep their paths; masked: folders in them that appear empty; late: more to bind, which
    may lie in masked folders; links: path -> target of symbolic links. /proc shows the new pid namespace; /tmp and
    /empty are empty folders.
    """
    call("mount", None, b"/", None, _REC | _PRIVATE, None)  # nothing of this is to be seen outside
    call("mount", b"tmpfs", b"/tmp", b"tmpfs", _NOSUID | _NODEV, b"mode=755")
    for path in binds:
        _bind(path)
    for path in masked:
        call("mount", b"tmpfs", f"/tmp{path}".encode(), b"tmpfs", _NOSUID | _NODEV, b"mode=755")
    for path in late:
        _bind(path)
    for path, goal in links.items():
        os.symlink(goal, "/tmp" + path)
    for folder in ("proc", "tmp", "empty", "old"):
        os.mkdir(f"/tmp/{folder}")
    call("mount", b"proc", b"/tmp/proc", b"proc", _NOSUID | _NODEV | _NOEXEC, None)
    syscall(NUMBERS[MACHINE]["pivot_root"], b"/tmp", b"/tmp/old", what="pivot_root")
    os.chdir("/")
    call("umount2", b"/old", _DETACH)
    os.rmdir("/old")
    for path in ["/", *binds, *late]:  # not /proc, where the maps of users are written
        _read_only(path)


def _bind(path: str) -> None:
    target = "/tmp" + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT, 0o644))
    call("mount", path.encode(), target.encode(), None, _BIND | _REC, None)


def _read_only(path: str) -> None:
    # Unlike a remount, this only adds a flag: flags of the outer mounts that are locked stay as they are.
    attributes = (ctypes.c_uint64 * 4)(1, 0, 0, 0)  # MOUNT_ATTR_RDONLY
    recursive = _AT_RECURSIVE if path != "/" else 0
    syscall(_MOUNT_SETATTR, _AT_FDCWD, path.encode(), recursive, attributes, 32, what=f"mount_setattr {path}")
