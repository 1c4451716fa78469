"""Projection and cross-entropy some rows at a time, with the gradients in the forward pass.

After Liger's fused loss (arXiv 2410.10989): the logits of all rows, often the largest tensor of a training step, never
exist. The C++ or the Triton beside this turns the logits of a chunk into losses and gradients.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from eco.kernels import native

_LEAST_ROWS = 1024
"""Of a chunk, whatever its logits take: each chunk reads all weights and adds to all their gradients."""

_SLICE = 4096
"""Tokens of the vocabulary whose gradients a chunk adds at a time: what is added to fp32 is still in the cache."""


class Pass(NamedTuple):
    """How chunks are treated.

    differentiate: (logits, targets, ignore_index, losses) fills the losses and puts the gradients of their sum in place
    of the logits; 0 for what is ignored. logits_bytes: logits at a time.
    """

    differentiate: Callable[[Tensor, Tensor, int, Tensor], None]
    logits_bytes: int


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, row_weights: Tensor | None, by: Pass
) -> tuple[Tensor, Tensor]:
    """See `eco.kernels.cross_entropy.linear_cross_entropy` and `weighted_cross_entropy`."""
    kept = targets != ignore_index
    wrong = targets[kept & ((targets < 0) | (targets >= len(weight)))]
    if len(wrong):
        raise IndexError(f"target {int(wrong[0])} is out of bounds for a vocabulary of {len(weight)}")
    arguments = hidden, weight, targets.contiguous(), ignore_index, int(kept.sum()), row_weights, by
    both: tuple[Tensor, Tensor] = _LinearCrossEntropy.apply(*arguments)  # type: ignore[no-untyped-call]
    return both


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        ignore_index: int,
        count: int,
        row_weights: Tensor | None,
        by: Pass,
    ) -> tuple[Tensor, Tensor]:
        dtype = native.compute_dtype(hidden)
        ctx.dtypes = hidden.dtype, weight.dtype
        ctx.count = count
        losses = torch.empty(len(hidden), device=hidden.device)
        wanted = any(ctx.needs_input_grad)
        tensors = hidden.to(dtype), weight.to(dtype), targets, ignore_index
        ctx.save_for_backward(*_losses_and_gradients(*tensors, losses, row_weights, by, wanted))
        plain = losses.sum() / count
        loss = plain.clone() if row_weights is None else (losses * row_weights).sum() / count
        ctx.mark_non_differentiable(plain)
        return loss, plain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        dhidden, dweight = ctx.saved_tensors
        scale = dloss / ctx.count
        hidden_dtype, weight_dtype = ctx.dtypes
        return (dhidden * scale).to(hidden_dtype), (dweight * scale).to(weight_dtype), *[None] * 5


def _losses_and_gradients(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int,
    losses: Tensor,
    row_weights: Tensor | None,
    by: Pass,
    wanted: bool,
) -> tuple[Tensor, ...]:
    """Fills `losses` (N,) and returns the gradients of their (weighted) sum by `hidden` and `weight`, if wanted.

    The weight's is summed over the chunks in fp32.
    """
    dhidden = torch.empty_like(hidden) if wanted else None
    dweight = torch.zeros_like(weight, dtype=torch.float32) if wanted else None
    rows = max(_LEAST_ROWS, by.logits_bytes // (len(weight) * weight.element_size()))
    for start in range(0, len(hidden), rows):
        part = slice(start, start + rows)
        logits = hidden[part] @ weight.T
        by.differentiate(logits, targets[part], ignore_index, losses[part])
        if dhidden is not None and dweight is not None:
            if row_weights is not None:
                logits.mul_(row_weights[part, None])  # they are gradients now
            torch.mm(logits, weight, out=dhidden[part])
            for first in range(0, len(weight), _SLICE):
                tokens = slice(first, first + _SLICE)
                dweight[tokens].add_(logits[:, tokens].T @ hidden[part])
    return () if dhidden is None or dweight is None else (dhidden, dweight)
