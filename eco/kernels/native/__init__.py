"""The C++ kernels: which library, if any, this process uses.

`ECO_KERNELS=torch` keeps to plain torch, `ECO_KERNELS=cpp` makes it an error when the C++ cannot be had. Unset, and
with `ECO_KERNELS=triton` for the tensors that Triton leaves, the C++ is used where it can be compiled, and one warning
says why where it cannot.
"""

import ctypes
import functools
import os
import warnings

import torch
from torch import Tensor

from eco.kernels.native.build import Unavailable, build


def wish() -> str:
    """The kernels that ECO_KERNELS asks for: `torch`, `cpp`, `triton`, or nothing.

    Raises:
        ValueError: it is none of these.
    """
    named = os.environ.get("ECO_KERNELS", "")
    if named not in ("", "torch", "cpp", "triton"):
        raise ValueError(
            f"ECO_KERNELS is {named!r}; set it to 'torch', 'cpp' or 'triton', or leave it unset to choose by itself"
        )
    return named


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where plain torch is to be used. The first call in a process may compile (seconds).

    Raises:
        ValueError: ECO_KERNELS is unknown, or is `cpp` and there is no library; the message says why.
    """
    asked = wish()
    if asked == "torch":
        return None
    try:
        return _load()
    except (Unavailable, OSError) as error:
        if asked == "cpp":
            raise ValueError(f"ECO_KERNELS=cpp, but there are no C++ kernels: {error}") from error
        warnings.warn(f"no C++ kernels, training uses plain torch and is slower: {error}", stacklevel=2)
        return None


def _load() -> ctypes.CDLL:
    path = build()
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # a damaged file in the cache; left there, it would change the bits of every later run
        path.unlink()
        return ctypes.CDLL(str(build()))


def usable(*tensors: Tensor | None) -> bool:
    """Whether the C++ may work on these tensors: all on the CPU, not under torch.compile, and a library is there."""
    return (
        not torch.compiler.is_compiling()
        and all(x is None or x.device.type == "cpu" for x in tensors)
        and library() is not None
    )


def call(name: str, *arguments: object) -> None:
    """Calls the C++ function `eco_NAME`: tensors pass as pointers, None as null, integers as 64 bits, structures by
    reference. Tensors must stay referenced by the caller until it returns."""
    loaded = library()
    assert loaded is not None
    getattr(loaded, f"eco_{name}")(*map(_argument, arguments))


def type_name(dtype: torch.dtype) -> str:
    """`float32` or `bfloat16`: how the C++ functions' names end."""
    return str(dtype).removeprefix("torch.")


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which autocast wants matrix products of `x`, the tensor's own outside autocast."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _argument(value: object) -> object:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, int):
        return ctypes.c_int64(value)
    if isinstance(value, ctypes.Structure):
        return ctypes.byref(value)
    assert value is None, value
    return ctypes.c_void_p(None)
