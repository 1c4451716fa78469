"""Landlock: which paths a process may open, and for what. https://docs.kernel.org/userspace-api/landlock.html"""

import ctypes
import os
import stat
from collections.abc import Iterable

from eco.sandbox.system import Refused, syscall

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE = 1 << 14
_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_READ = _EXECUTE | _READ_FILE | _READ_DIR
# Removing and making files, folders and symbolic links; no devices, sockets or pipes with a name.
_CHANGE = (1 << 4) | (1 << 5) | (1 << 7) | (1 << 8) | (1 << 12)
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""ABI version -> how many rights on files it knows; later ones know the 16 of version 5."""


def version() -> int:
    """The kernel's Landlock ABI, 0 where there is none."""
    try:
        return syscall(_CREATE, None, 0, _VERSION, what="landlock_create_ruleset")
    except Refused:
        return 0


def restrict(abi: int, readable: Iterable[str], writable: Iterable[str]) -> None:
    """From here on this process and its children may read below `readable`, do anything below `writable`, and open no
    other path; with newer kernels no TCP port (ABI 4), and nothing outside by signal or abstract socket (ABI 6).

    Raises:
        Refused: the kernel has no Landlock, or a path is not there.
    """
    handled = (1 << _RIGHTS.get(abi, 16)) - 1
    fields = [handled]
    if abi >= 4:
        fields.append(3)  # bind and connect
    if abi >= 6:
        fields.append(3)  # abstract sockets, signals
    attributes = (ctypes.c_uint64 * len(fields))(*fields)
    ruleset = syscall(_CREATE, attributes, ctypes.sizeof(attributes), 0, what="landlock_create_ruleset")
    for path in readable:
        _allow(ruleset, path, _READ & handled)
    for path in writable:
        _allow(ruleset, path, (_READ | _FILE | _CHANGE) & handled)
    syscall(_RESTRICT, ruleset, 0, what="landlock_restrict_self")
    os.close(ruleset)


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def _allow(ruleset: int, path: str, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    if not stat.S_ISDIR(os.fstat(parent).st_mode):
        rights &= _FILE
    syscall(_ADD, ruleset, 1, ctypes.byref(_Beneath(rights, parent)), 0, what=f"landlock_add_rule for {path}")
    os.close(parent)
