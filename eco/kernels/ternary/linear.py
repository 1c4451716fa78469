"""The ternary linear layer's products and their gradients, around the passes of eager.py or cpu.py."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_SLICE_ROWS = 1024
"""Rows of the weight's gradient that are computed at a time: small enough to be widened to fp32 in the cache."""


def linear(
    x: Tensor,
    weight: Tensor,
    codes: Tensor,
    columns: Tensor,
    offsets: Tensor | None,
    passes: ModuleType,
) -> Tensor:
    """See `eco.kernels.ternary.ternary_linear`. columns: (rows,), the scale of each of the weight's rows."""
    bounds = (0, len(x)) if offsets is None else tuple(offsets.tolist())
    assert bounds[-1] == len(x) and len(codes) % (len(bounds) - 1) == 0
    out: Tensor = _Linear.apply(x, weight, codes, columns, bounds, passes)  # type: ignore[no-untyped-call]
    return out


class _Linear(torch.autograd.Function):
    """Keeps the codes of x for the backward pass, never x itself."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        codes: Tensor,
        columns: Tensor,
        bounds: tuple[int, ...],
        passes: ModuleType,
    ) -> Tensor:
        rows, step = passes.round_rows(x, codes.dtype)
        out = codes.new_empty(len(x), len(codes) // (len(bounds) - 1))
        for part, expert in _groups(bounds, len(codes)):
            torch.mm(rows[part], codes[expert].T, out=out[part])
            passes.scale(out[part], step[part], columns[expert], out[part])
        ctx.save_for_backward(rows, step, codes, columns)
        ctx.bounds, ctx.passes, ctx.dtypes = bounds, passes, (x.dtype, weight.dtype)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        rows, step, codes, columns = ctx.saved_tensors
        dout = dout.contiguous()
        x_dtype, weight_dtype = ctx.dtypes
        groups = list(_groups(ctx.bounds, len(codes)))
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            dx = torch.empty_like(rows)
            for part, expert in groups:
                scaled = torch.empty_like(dout[part])
                ctx.passes.scale(dout[part], None, columns[expert], scaled)
                torch.mm(scaled, codes[expert], out=dx[part])
            dx = dx.to(x_dtype)
        if ctx.needs_input_grad[1]:
            rounded = torch.empty_like(rows)
            ctx.passes.scale(rows, step, None, rounded)
            # An expert without rows owes its gradient to nobody: zeros.
            dweight = torch.empty_like(codes, dtype=weight_dtype)
            for part, expert in groups:
                _weight_gradient(dout[part], rounded[part], dweight[expert])
        return dx, dweight, None, None, None, None


def _groups(bounds: tuple[int, ...], rows: int) -> Iterator[tuple[slice, slice]]:
    """The rows of x and of the weight that meet, for each expert."""
    size = rows // (len(bounds) - 1)
    for e in range(len(bounds) - 1):
        yield slice(bounds[e], bounds[e + 1]), slice(e * size, (e + 1) * size)


def _weight_gradient(dout: Tensor, x: Tensor, out: Tensor) -> None:
    """out = dout^T x, a few rows at a time; zeros where there are no rows of x."""
    for first in range(0, len(out), _SLICE_ROWS):
        out[first : first + _SLICE_ROWS] = dout[:, first : first + _SLICE_ROWS].T @ x
