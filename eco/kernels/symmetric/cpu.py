"""Symmetric products by the C++ in symmetric.cpp."""

import torch
from torch import Tensor

from eco.kernels import native

SIDE = 32
"""The C++ goes by squares of this side."""


def able(a: Tensor, b: Tensor) -> bool:
    """Whether the C++ does these: contiguous bf16 on the CPU, m and k multiples of 32."""
    fits = a.dtype == b.dtype == torch.bfloat16 and a.shape[1] % SIDE == a.shape[2] % SIDE == 0
    return fits and a.is_contiguous() and b.is_contiguous() and native.usable(a, b)


def symmetric_product(a: Tensor, b: Tensor) -> Tensor:
    """See `eco.kernels.symmetric.symmetric_product`."""
    out = a.new_empty(*a.shape[:2], a.shape[1])
    native.call("symmetric_product", *a.shape, a, b, out)
    return out
