"""The passes of rows.py by the C++ in rows.cpp: rows of fp32 or bf16, weights and sums fp32."""

import torch
from torch import Tensor

from eco.kernels import native


def able(y: Tensor, weights: Tensor | None) -> bool:
    """Whether the C++ does these."""
    return (
        y.dtype in (torch.float32, torch.bfloat16)
        and (weights is None or weights.dtype == torch.float32)
        and y.numel() > 0
        and native.usable(y)
    )


def combine(y: Tensor, weights: Tensor | None, row: Tensor) -> Tensor:
    """See eager.py; all contiguous."""
    out = y.new_empty(len(row), y.shape[1])
    native.call(f"combine_rows_{native.type_name(y.dtype)}", *row.shape, y.shape[1], y, weights, row, out)
    return out


def combine_backward(y: Tensor, weights: Tensor, row: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
    """See eager.py; all contiguous."""
    dy, dweights = torch.zeros_like(y), torch.empty_like(weights)
    name = f"combine_rows_backward_{native.type_name(y.dtype)}"
    native.call(name, *row.shape, y.shape[1], y, weights, row, dout, dy, dweights)
    return dy, dweights
