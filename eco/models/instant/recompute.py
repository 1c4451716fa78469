"""Sub-layers that are run again in the backward pass (arXiv 1604.06174): autograd keeps their inputs alone."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from eco.models.instant.replay import Replay, SubLayer
from eco.models.instant.tally import Tally


def recomputed(sublayer: SubLayer, x: Tensor, tally: Tally) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`sublayer.run(x)`, of which autograd keeps x (B, T, D) only."""
    parameters = [p for p in sublayer.parameters if p.requires_grad]
    delta, *more = _Recomputed.apply(sublayer, tally, x, *parameters)  # type: ignore[no-untyped-call]
    return delta, tuple(more)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sublayer: SubLayer, tally: Tally, x: Tensor, *_: nn.Parameter) -> tuple[Tensor, ...]:
        ctx.sublayer, ctx.tally, ctx.replay = sublayer, tally, Replay(x.device)
        ctx.save_for_backward(x)
        with ctx.replay.first():
            delta, more = sublayer.run(x)
        return delta, *more

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, ddelta: Tensor, *dmore: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        _, dx, dparameters = run_again(ctx.sublayer, ctx.replay, ctx.tally, x, ddelta, dmore)
        ctx.tally.kept(x.nbytes + ctx.replay.nbytes)
        return None, None, dx, *dparameters


def run_again(
    sublayer: SubLayer, replay: Replay, tally: Tally, x: Tensor, ddelta: Tensor, dmore: Sequence[Tensor]
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """What the sub-layer adds to its input x, and the gradients of x and of the parameters that want one."""
    x = x.detach().requires_grad_()
    with torch.enable_grad(), replay.again(), tally.recomputing():
        delta, more = sublayer.run(x)
    outputs = [(delta, ddelta.to(delta.dtype)), *zip(more, dmore, strict=True)]
    outputs = [(y, dy) for y, dy in outputs if y.requires_grad]
    inputs = [x, *(p for p in sublayer.parameters if p.requires_grad)]
    dx, *dparameters = torch.autograd.grad(
        [y for y, _ in outputs], inputs, [dy for _, dy in outputs], allow_unused=True
    )
    return delta.detach(), dx, [*dparameters]
