"""Numbers in 4, 6 or 8 bits by the C++ in quantised.cpp: fp32 and bf16 on the CPU."""

import torch
from torch import Tensor

from eco.kernels import native
from eco.kernels.quantised.eager import GROUP

_FLOATS = (torch.float32, torch.bfloat16)


def able(x: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether the C++ keeps these numbers, or reads numbers like these back as `dtype`."""
    return (dtype or x.dtype) in _FLOATS and x.numel() > 0 and native.usable(x)


def quantise(x: Tensor, bits: int, key: int) -> tuple[Tensor, Tensor, Tensor]:
    """See `eco.kernels.quantised.quantise`."""
    x, groups = x.contiguous(), -(-len(x) // GROUP)
    codes = torch.empty(groups, GROUP * bits // 8, dtype=torch.uint8)
    low, step = torch.empty(groups, dtype=torch.bfloat16), torch.empty(groups, dtype=torch.bfloat16)
    native.call(f"quantise_{native.type_name(x.dtype)}", len(x), bits, key, x, codes, low, step)
    return codes, low, step


def dequantise(codes: Tensor, low: Tensor, step: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """See `eco.kernels.quantised.dequantise`."""
    out = torch.empty(count, dtype=dtype)
    bits = codes.shape[1] * 8 // GROUP
    native.call(f"dequantise_{native.type_name(dtype)}", count, bits, codes, low, step, out)
    return out
