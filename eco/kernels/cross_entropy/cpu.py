"""Projection and cross-entropy with the C++ in cross_entropy.cpp: fp32 and bf16 on the CPU.

The forward pass computes the gradients as well, a few rows at a time (after Liger's fused loss, arXiv 2410.10989): the
logits of all rows, often the largest tensor of a training step, never exist.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from eco.kernels import native

_LOGITS_BYTES = 16 << 20
"""Logits at a time: they stay in a last-level cache, and the products are large enough to run at full speed."""


def able(hidden: Tensor, weight: Tensor, targets: Tensor) -> bool:
    """Whether the C++ does these."""
    dtype = native.compute_dtype(hidden)
    return dtype in (torch.float32, torch.bfloat16) and hidden.numel() > 0 and native.usable(hidden, weight, targets)


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """See `eco.kernels.cross_entropy.linear_cross_entropy`."""
    kept = targets != ignore_index
    wrong = targets[kept & ((targets < 0) | (targets >= len(weight)))]
    if len(wrong):
        raise IndexError(f"target {int(wrong[0])} is out of bounds for a vocabulary of {len(weight)}")
    arguments = hidden, weight, targets.contiguous(), ignore_index, int(kept.sum())
    loss: Tensor = _LinearCrossEntropy.apply(*arguments)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, count: int) -> Tensor:
        dtype = native.compute_dtype(hidden)
        ctx.dtypes = hidden.dtype, weight.dtype
        ctx.count = count
        losses = torch.empty(len(hidden))
        gradients = _losses_and_gradients(
            hidden.to(dtype), weight.to(dtype), targets, ignore_index, losses, any(ctx.needs_input_grad)
        )
        ctx.save_for_backward(*gradients)
        return losses.sum() / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        dhidden, dweight = ctx.saved_tensors
        scale = dloss / ctx.count
        hidden_dtype, weight_dtype = ctx.dtypes
        return (dhidden * scale).to(hidden_dtype), (dweight * scale).to(weight_dtype), None, None, None


def _losses_and_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, losses: Tensor, wanted: bool
) -> tuple[Tensor, ...]:
    """Fills `losses` (N,) and returns the gradients of their sum by `hidden` and `weight`, if wanted.

    The weight's is summed over the chunks in fp32.
    """
    dhidden = torch.empty_like(hidden) if wanted else None
    dweight: Tensor | None = None
    vocabulary = len(weight)
    rows = max(1, _LOGITS_BYTES // (vocabulary * weight.element_size()))
    for start in range(0, len(hidden), rows):
        part = slice(start, start + rows)
        logits = hidden[part] @ weight.T
        name = f"cross_entropy_{native.type_name(logits.dtype)}"
        native.call(name, len(logits), vocabulary, logits, targets[part], ignore_index, losses[part])
        if dhidden is not None:
            torch.mm(logits, weight, out=dhidden[part])
            share = (logits.T @ hidden[part]).float()
            dweight = share if dweight is None else dweight.add_(share)
    return () if dhidden is None or dweight is None else (dhidden, dweight)
