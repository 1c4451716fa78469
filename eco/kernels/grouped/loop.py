"""Grouped products as a loop over the groups."""

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from eco.kernels.native import compute_dtype


def grouped_linear(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """See `eco.kernels.grouped.grouped_linear`."""
    out: Tensor = _GroupedLinear.apply(x, weight, offsets.tolist(), compute_dtype(x))  # type: ignore[no-untyped-call]
    return out


class _GroupedLinear(torch.autograd.Function):
    """Casts one group's weights at a time, again in the backward pass: a copy of all would outlive the forward pass,
    and a single token, as in generation, meets a few groups only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, offsets: list[int], dtype: torch.dtype) -> Tensor:
        x = x.to(dtype)
        groups = weight.chunk(len(offsets) - 1)
        out = x.new_empty(len(x), len(groups[0]))
        for group, rows in zip(groups, _rows(offsets), strict=True):
            if rows.start < rows.stop:
                torch.mm(x[rows], group.to(dtype).t(), out=out[rows])
        ctx.save_for_backward(x, weight)
        ctx.offsets = offsets
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = _rows(ctx.offsets)
        wants_dx, wants_dweight, *_ = ctx.needs_input_grad
        dx = torch.empty_like(x) if wants_dx else None
        dweight = torch.empty_like(weight) if wants_dweight else None
        for index, (group, own) in enumerate(zip(weight.chunk(len(rows)), rows, strict=True)):
            if dx is not None and own.start < own.stop:
                torch.mm(dout[own], group.to(x.dtype), out=dx[own])
            if dweight is not None:
                dweight.chunk(len(rows))[index].copy_(dout[own].t() @ x[own])  # zero where there are no rows
        return dx, dweight, None, None


def _rows(offsets: list[int]) -> list[slice]:
    return [slice(start, end) for start, end in itertools.pairwise(offsets)]
