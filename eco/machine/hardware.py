"""What this machine is, as this process may use it: cores, memory, instruction sets, compiler, GPUs."""

import os
import platform
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path


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
    cpu_capability: str
    """The widest instruction set for which torch has its own kernels, as "AVX512"."""
    torch_version: str
    compiler: str | None
    """Path of the C++ compiler, or None."""
    gpus: tuple[Gpu, ...]


@cache
def inspect() -> Machine:
    """Describes the machine as this process sees it (affinity and container limits included)."""
    import torch

    return Machine(
        system=platform.platform(),
        processor=_cpuinfo().get("model name") or platform.processor() or platform.machine(),
        cores=usable_cores(),
        memory_bytes=_usable_memory(),
        instruction_sets=instruction_sets(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        torch_version=torch.__version__,
        compiler=compiler(),
        gpus=_gpus(),
    )


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


def instruction_sets() -> tuple[str, ...]:
    """Of avx2, avx512, avx512_bf16, amx: those that the processor has; none where /proc/cpuinfo is missing."""
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
