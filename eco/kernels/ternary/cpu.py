"""The passes over memory of a ternary linear layer by the C++ in ternary.cpp: fp32 and bf16 on the CPU."""

from collections.abc import Sequence

import torch
from torch import Tensor

from eco.kernels import native
from eco.kernels.native import compute_dtype


def able(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether the C++ makes codes in `dtype` of x, rows of activations or an fp32 weight."""
    return (x.dtype, dtype) in _PAIRS and x.numel() > 0 and native.usable(x)


_PAIRS = {(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)}


def ternarise(weight: Tensor, row_blocks: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """See `eco.kernels.ternary.ternarise`; weight fp32."""
    weight = weight.contiguous()
    codes, scale = torch.empty_like(weight, dtype=dtype), weight.new_empty(len(row_blocks))
    sizes = list(row_blocks)
    for block, out, gamma in zip(torch.split(weight, sizes), torch.split(codes, sizes), scale, strict=True):
        native.call(f"ternarise_{native.type_name(dtype)}", block.numel(), block, out, gamma)
    return codes, scale


def round_rows(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """See eager.py."""
    x = x.contiguous()
    codes, step = torch.empty_like(x, dtype=dtype), torch.empty(len(x))
    native.call(f"ternary_round_{_name(x, codes)}", *x.shape, x, codes, step)
    return codes, step


def scale(x: Tensor, rows: Tensor | None, columns: Tensor | None, out: Tensor) -> None:
    """See eager.py; x and out contiguous."""
    native.call(f"ternary_scale_{native.type_name(x.dtype)}", *x.shape, x, rows, columns, out)


def pack(codes: Tensor) -> Tensor:
    """See `eco.kernels.ternary.pack`."""
    codes = codes.contiguous()
    packed = codes.new_empty(len(codes), -(-codes.shape[1] // 4), dtype=torch.uint8)
    native.call(f"ternary_pack_{native.type_name(codes.dtype)}", *codes.shape, codes, packed)
    return packed


def packed_linear(x: Tensor, packed: Tensor, columns: Tensor) -> Tensor:
    """See eager.py."""
    x = x.contiguous()
    out = x.new_empty(len(x), len(packed), dtype=compute_dtype(x))
    native.call(f"packed_linear_{_name(x, out)}", *x.shape, len(packed), x, packed, columns, out)
    return out


def _name(x: Tensor, out: Tensor) -> str:
    return f"{native.type_name(x.dtype)}_{native.type_name(out.dtype)}"
