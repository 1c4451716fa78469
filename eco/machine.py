"""What this machine is, and the process settings it needs: allocator thresholds, threads, the dtype of each phase.

torch is imported inside the functions, so that commands which only ask for a path stay fast.
"""

import ctypes
import os
import platform
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

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
    flush_denormals: bool


class DtypeChoice(NamedTuple):
    """A compute dtype ("bf16" or "fp32") and the reason for it in words."""

    dtype: str
    reason: str


@dataclass(frozen=True)
class Gpu:
    name: str
    memory_bytes: int
    capability: str
    """CUDA compute capability, as "9.0"."""


@dataclass(frozen=True)
class Machine:
    system: str
    processor: str
    cores: int
    """Physical cores that this process may use."""
    memory_bytes: int
    """What the process may use: the container's limit where there is one."""
    instruction_sets: tuple[str, ...]
    """Of avx2, avx512, avx512_bf16, amx: those that the processor has. Empty where /proc/cpuinfo is missing."""
    cpu_capability: str
    """The widest instruction set for which torch has its own kernels, as "AVX512"."""
    torch_version: str
    compiler: str | None
    """Path of the C++ compiler, or None."""
    gpus: tuple[Gpu, ...]


@cache
def prepare() -> Settings:
    """Sets what heavy work needs in this process; call it before the first large tensor. Further calls change nothing.

    - glibc would give every large tensor back to the system and fault its pages in again at the next step; with the
      thresholds raised it keeps them (measured: 9 to 14 % of a bf16 training step). The price: memory once used stays
      with the process.
    - One thread per physical core that the process may use, unless OMP_NUM_THREADS says otherwise: two threads on one
      core's matrix unit only get in each other's way.
    - Denormal floats count as zero: on some processors each costs a hundred cycles, and no gradient needs them.

    The precision of fp32 matrix products stays exact (torch's default, "highest").
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())
    return Settings(
        malloc_keep_bytes=_KEEP_BYTES if _keep_freed_memory() else None,
        threads=torch.get_num_threads(),
        flush_denormals=torch.set_flush_denormal(True),
    )


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


@cache
def inspect() -> Machine:
    """Describes the machine as this process sees it (affinity and container limits included)."""
    import torch

    return Machine(
        system=platform.platform(),
        processor=_cpuinfo().get("model name") or platform.processor() or platform.machine(),
        cores=usable_cores(),
        memory_bytes=_usable_memory(),
        instruction_sets=_instruction_sets(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        torch_version=torch.__version__,
        compiler=compiler(),
        gpus=_gpus(),
    )


def training_dtype(device: "torch.device | str") -> DtypeChoice:
    """The dtype of matrix products in training: bf16 where the device multiplies it in hardware, else fp32."""
    import torch

    if torch.device(device).type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return DtypeChoice("bf16", "the GPU multiplies bf16 in hardware")
        return DtypeChoice("fp32", "the GPU has no bf16 units")
    sets = _instruction_sets()
    if "amx" in sets:
        return DtypeChoice("bf16", "AMX multiplies bf16 at several times the fp32 rate")
    if "avx512_bf16" in sets:
        return DtypeChoice("bf16", "AVX512-BF16 multiplies bf16 at several times the fp32 rate")
    return DtypeChoice("fp32", "this processor has neither AMX nor AVX512-BF16")


def decoding_dtype(device: "torch.device | str") -> DtypeChoice:
    """The dtype of text generation: bf16 on a GPU that has it, fp32 on a CPU."""
    import torch

    if torch.device(device).type == "cuda":
        return training_dtype(device)
    return DtypeChoice("fp32", "CPUs do matrix-vector products in bf16 at half the fp32 rate (measured)")


def usable_cores() -> int:
    """Physical cores this process may use: its affinity, siblings counted once, capped by the container's quota."""
    logical = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    if platform.system() == "Linux":
        physical = len({_physical_core(cpu) for cpu in logical})
    else:
        import psutil

        physical = psutil.cpu_count(logical=False) or len(logical)
    quota = _cpu_quota()
    return max(1, physical if quota is None else min(physical, round(quota)))


def _physical_core(cpu: int) -> tuple[str, str]:
    """Package and core that a logical processor belongs to; itself where the system does not say."""
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return (topology / "physical_package_id").read_text(), (topology / "core_id").read_text()
    except OSError:
        return "", str(cpu)


def _cgroup_folders() -> list[Path]:
    """The process's control groups (version 2), innermost first; inside a container only the root is visible."""
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((root / line[3:].lstrip("/") for line in lines if line.startswith("0::")), root)
    return [folder for folder in (own, *own.parents) if folder.is_relative_to(root)]


def _cgroup_limits(name: str) -> list[list[str]]:
    """The words of the limit file `name` in each enclosing control group that sets it."""
    files = [folder / name for folder in _cgroup_folders()]
    values = [file.read_text().split() for file in files if file.is_file()]
    return [value for value in values if value and value[0] != "max"]


def _cpu_quota() -> float | None:
    """Processors' worth of time that the container allows, or None without a limit."""
    return min((int(quota) / int(period) for quota, period in _cgroup_limits("cpu.max")), default=None)


def _usable_memory() -> int:
    import psutil

    limits = [int(limit[0]) for limit in _cgroup_limits("memory.max")]
    return min([psutil.virtual_memory().total, *limits])


@cache
def _cpuinfo() -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo; empty on other systems."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def _instruction_sets() -> tuple[str, ...]:
    flags = set(_cpuinfo().get("flags", "").split())
    needed = {"avx2": "avx2", "avx512": "avx512f", "avx512_bf16": "avx512_bf16", "amx": "amx_bf16"}
    return tuple(name for name, flag in needed.items() if flag in flags)


def compiler() -> str | None:
    """Path of the C++ compiler: $CXX, else the first of c++, g++, clang++ on the PATH."""
    candidates = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


def _gpus() -> tuple[Gpu, ...]:
    import torch

    if not torch.cuda.is_available():
        return ()
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return tuple(Gpu(p.name, p.total_memory, f"{p.major}.{p.minor}") for p in properties)


def cache_folder() -> Path:
    """Where compiled kernels and token stores are kept: $ECO_CACHE, else ~/.cache/eco."""
    return Path(os.environ.get("ECO_CACHE") or Path.home() / ".cache" / "eco")
