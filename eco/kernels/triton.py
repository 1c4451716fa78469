"""The Triton kernels: whether this process uses them, and for which tensors.

They work on CUDA tensors, and with `TRITON_INTERPRET=1` (set before Triton is imported) on CPU tensors too, where
Triton runs them step by step in Python; that needs `ECO_KERNELS=triton`. `ECO_KERNELS=torch` and `ECO_KERNELS=cpp`
switch them off. Without Triton the operations take their other paths.

A kernel's module imports Triton at its top, so an operation imports it only where `usable` has said yes.
"""

import functools
import os
import warnings

import torch
from torch import Tensor

from eco.kernels import native


def usable(*tensors: Tensor | None, dtype: torch.dtype = torch.float32) -> bool:
    """Whether Triton may work on these tensors, computing in `dtype`: all on devices that it serves, and not under
    torch.compile. The interpreter knows no bf16 (it would take its bits for integers)."""
    given = [x for x in tensors if x is not None]
    return (
        not torch.compiler.is_compiling()
        and all(serves(x.device.type) for x in given)
        and dtype in (torch.float32, torch.float16, torch.bfloat16)
        and not (interpreted() and torch.bfloat16 in (dtype, *(x.dtype for x in given)))
    )


def serves(device: str) -> bool:
    """Whether Triton kernels work on tensors of this type of device (`cuda`, `cpu`) in this process.

    Raises:
        ValueError: ECO_KERNELS is unknown.
    """
    asked = native.wish()
    if asked == "triton" and (lack := missing()):
        _warn(lack)
        return False
    if device == "cpu":
        return asked == "triton" and interpreted()
    return device == "cuda" and asked in ("", "triton") and _installed()


def missing() -> str:
    """What Triton's kernels need and this process lacks, and how to mend it; empty where nothing is missing."""
    if not _installed():
        return "Triton cannot be imported (pip install triton; there are builds for Linux)"
    if not (interpreted() or torch.cuda.is_available()):
        return "torch sees no CUDA device (install a CUDA build of torch and the GPU's driver)"
    return ""


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on CPU tensors as well."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _installed() -> bool:
    try:
        import triton  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


@functools.cache
def _warn(lack: str) -> None:
    warnings.warn(f"ECO_KERNELS=triton, but {lack}; other kernels take over", stacklevel=4)
