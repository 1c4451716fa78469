"""Tokens to sorted rows and back, around the passes of eager.py or cpu.py.

Both directions only gather, forward and backward: no row is added to twice, so the result does not depend on the order
in which threads come by.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from eco.kernels.grouped import cpu, eager


class GatherRows(torch.autograd.Function):
    """See `eco.kernels.grouped.gather_rows`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, row: Tensor) -> Tensor:
        ctx.save_for_backward(row)
        return x.index_select(0, token)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None]:
        (row,) = ctx.saved_tensors
        dout = dout.contiguous()
        return _passes(dout, None).combine(dout, None, row), None, None


class CombineRows(torch.autograd.Function):
    """See `eco.kernels.grouped.combine_rows`."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weights: Tensor, row: Tensor) -> Tensor:
        y, weights = y.contiguous(), weights.contiguous()
        ctx.save_for_backward(y, weights, row)
        out: Tensor = _passes(y, weights).combine(y, weights, row)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, None]:
        y, weights, row = ctx.saved_tensors
        dy, dweights = _passes(y, weights).combine_backward(y, weights, row, dout.contiguous())
        return dy, dweights, None


def _passes(y: Tensor, weights: Tensor | None) -> ModuleType:
    return cpu if cpu.able(y, weights) else eager
