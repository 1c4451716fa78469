"""What `eco doctor` reports: each thing that Eco needs or can use, whether it is there, and how to mend it."""

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from eco.machine import hardware
from eco.machine.dtypes import decoding_dtype, training_dtype
from eco.machine.settings import cache_folder, malloc_keeps_memory, prepare

_PACKAGES = (
    "numpy", "pydantic", "tyro", "PyYAML", "tokenizers", "tiktoken", "safetensors", "xxhash", "filelock", "rich",
    "matplotlib", "psutil",
)  # fmt: skip
"""Distributions that Eco's core needs besides torch."""

_EXTRAS = {
    "hf": (["transformers"], "comparing with transformers; its weights are read and written without it"),
    "parquet": (["pyarrow"], "reading .parquet corpora"),
    "track": (["tensorboard", "trackio", "wandb"], "sending metrics to trackers"),
}
"""Extra -> its modules, what it is for."""

_LEAST_DISK_BYTES = 2e9
_LEAST_MEMORY_BYTES = 2e9


@dataclass(frozen=True)
class Check:
    """One finding. `required`: Eco does not work without it. `remedy` says how to mend a check that is not ok."""

    name: str
    ok: bool
    required: bool
    detail: str
    remedy: str = ""


def doctor(more: Mapping[str, Callable[[], list[Check]]] | None = None) -> list[Check]:
    """Looks at everything, `more` at the end; a check that itself breaks is a failed check and hides no other."""
    checks: list[Check] = []
    for name, look in (_LOOKS | dict(more or {})).items():
        try:
            checks += look()
        except Exception as error:
            checks.append(Check(name, False, True, f"{type(error).__name__}: {error}", "see the message"))
    return checks


def _python() -> list[Check]:
    version = sys.version_info
    ok = (3, 11) <= version < (3, 14)
    return [Check("python", ok, True, sys.version.split()[0], "install Python 3.11, 3.12 or 3.13")]


def _torch() -> list[Check]:
    import torch

    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    capability = torch.backends.cpu.get_cpu_capability()
    detail = f"{torch.__version__}, CPU kernels for {capability}"
    return [Check("torch", release >= (2, 11), True, detail, "pip install 'torch>=2.11'")]


def _packages() -> list[Check]:
    checks = []
    for package in _PACKAGES:
        try:
            checks.append(Check(package, True, True, metadata.version(package)))
        except metadata.PackageNotFoundError:
            checks.append(Check(package, False, True, "not installed", f"pip install {package}"))
    return checks


def _extras() -> list[Check]:
    checks = []
    for extra, (modules, purpose) in _EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        detail = f"{', '.join(missing)} not installed" if missing else "installed"
        remedy = f"pip install 'eco-lm[{extra}]'"
        checks.append(Check(f"extra {extra}", not missing, False, f"{detail} ({purpose})", remedy))
    return checks


def _compiler() -> list[Check]:
    found = hardware.compiler()
    detail = found or "none: kernels run through torch alone, more slowly"
    return [Check("C++ compiler", found is not None, False, detail, "apt install g++, or set CXX")]


def _processor() -> list[Check]:
    machine = hardware.inspect()
    sets = ", ".join(machine.instruction_sets) or "none known"
    return [
        Check("processor", True, False, f"{machine.processor}, {machine.cores} physical cores usable"),
        Check(
            "instruction sets",
            "avx2" in machine.instruction_sets,
            False,
            sets,
            "nothing to install: without AVX2 everything works, slowly",
        ),
    ]


def _memory() -> list[Check]:
    size = hardware.inspect().memory_bytes
    remedy = f"give the process at least {_LEAST_MEMORY_BYTES / 1e9:.0f} GB"
    return [Check("memory", size >= _LEAST_MEMORY_BYTES, True, f"{size / 1e9:.1f} GB", remedy)]


def _folders() -> list[Check]:
    return [
        _folder("cache folder", cache_folder(), "set ECO_CACHE to another"),
        _folder("working folder", Path.cwd(), "change to another"),
    ]


def _folder(name: str, path: Path, remedy: str) -> Check:
    """Whether `path` can be written (a file is made and removed) and has room."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            free = shutil.disk_usage(path).free
    except OSError as error:
        return Check(name, False, True, f"{path}: {error.strerror or error}", f"make it writable, or {remedy}")
    detail = f"{path}: {free / 1e9:.1f} GB free"
    return Check(name, free >= _LEAST_DISK_BYTES, True, detail, f"free {_LEAST_DISK_BYTES / 1e9:.0f} GB, or {remedy}")


def _gpu() -> list[Check]:
    gpus = hardware.inspect().gpus
    found = "; ".join(f"{g.name}, {g.memory_bytes / 1e9:.0f} GB, compute capability {g.capability}" for g in gpus)
    remedy = "nothing needed: all runs on the CPU; for an NVIDIA GPU install its driver and a CUDA build of torch"
    return [Check("GPU", bool(gpus), False, found or "none that torch sees", remedy)]


def _arithmetic() -> list[Check]:
    """A small bf16 matrix product against the same in fp32: a broken build gives nonsense or dies here."""
    import torch

    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator)
    error = float((a.bfloat16() @ b.bfloat16() - a @ b).norm() / (a @ b).norm())
    detail = f"relative error {error:.4f} against fp32"
    return [Check("bf16 matrix product", error < 0.02, True, detail, "reinstall torch; this build computes wrongly")]


def _settings() -> list[Check]:
    settings = prepare()
    keeps = malloc_keeps_memory()
    kept = f"freed blocks up to {(settings.malloc_keep_bytes or 0) / 2**30:.0f} GiB stay with the process"
    malloc = kept if keeps else "default thresholds: large tensors are faulted in again at every step"
    device = "cuda" if hardware.inspect().gpus else "cpu"
    train, decode = training_dtype(device), decoding_dtype(device)
    return [
        Check("memory allocator", keeps, False, malloc, "nothing to install: only glibc on Linux can be told"),
        Check("threads", True, False, f"{settings.threads} (OMP_NUM_THREADS overrides)"),
        Check("dtype to train", True, False, f"{train.dtype}: {train.reason}"),
        Check("dtype to generate", True, False, f"{decode.dtype}: {decode.reason}"),
    ]


_LOOKS: dict[str, Callable[[], list[Check]]] = {
    "python": _python,
    "torch": _torch,
    "packages": _packages,
    "extras": _extras,
    "C++ compiler": _compiler,
    "processor": _processor,
    "memory": _memory,
    "folders": _folders,
    "GPU": _gpu,
    "bf16 matrix product": _arithmetic,
    "settings": _settings,
}
