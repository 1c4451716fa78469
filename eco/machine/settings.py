"""The process settings that heavy work needs: allocator thresholds and threads; and where its results are cached."""

import ctypes
import os
import platform
from functools import cache
from pathlib import Path
from typing import NamedTuple

from eco.machine.hardware import usable_cores

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
"""Parameter numbers of mallopt(3), from glibc's malloc.h."""

_KEEP_BYTES = 1 << 30
"""Blocks below this size stay in the process's heap when they are freed."""

_TOP_PAD_BYTES = 64 << 20
"""The heap grows by this much at a time."""


class Settings(NamedTuple):
    """What `prepare` set: None where the platform has no such setting."""

    malloc_keep_bytes: int | None
    threads: int


@cache
def prepare() -> Settings:
    """Sets what heavy work needs in this process; call it before the first large tensor. Further calls change nothing.

    - glibc would give every large tensor back to the system and fault its pages in again at the next step; with the
      thresholds raised it keeps them (measured: 9 to 14 % of a bf16 training step). The price: memory once used stays
      with the process.
    - One thread per physical core that the process may use, unless OMP_NUM_THREADS says otherwise: two threads on one
      core's matrix unit only get in each other's way.

    Denormal floats keep their meaning: the switch holds for single threads, so results would depend on which threads
    existed before it, and it would reach into the caller's own arithmetic. Matrix products in fp32 stay exact
    (torch's default, "highest").
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())
    kept = _KEEP_BYTES if _keep_freed_memory() else None
    return Settings(malloc_keep_bytes=kept, threads=torch.get_num_threads())


def _keep_freed_memory() -> bool:
    if not is_glibc():
        return False
    libc = ctypes.CDLL(None)
    values = {_M_MMAP_THRESHOLD: _KEEP_BYTES, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: _TOP_PAD_BYTES}
    return all(libc.mallopt(parameter, value) == 1 for parameter, value in values.items())


def malloc_keeps_memory(size: int = 128 << 20) -> bool:
    """Whether a block of `size` bytes really comes from the heap: heap addresses lie below the program break.

    Untouched pages cost nothing, so the probe takes no memory.
    """
    if not is_glibc():
        return False
    libc = ctypes.CDLL(None)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
    libc.sbrk.argtypes, libc.sbrk.restype = [ctypes.c_ssize_t], ctypes.c_void_p
    block = libc.malloc(size)
    in_heap = block is not None and block < libc.sbrk(0)
    libc.free(block)
    return in_heap


def is_glibc() -> bool:
    return platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"


def cache_folder() -> Path:
    """Where compiled kernels and token stores are kept: $ECO_CACHE, else ~/.cache/eco."""
    return Path(os.environ.get("ECO_CACHE") or Path.home() / ".cache" / "eco")
