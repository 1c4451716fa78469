"""Differential attention (arXiv 2410.05258): what two attention maps have in common is noise, and cancels out.

A head attends twice, each time with queries and keys of its own, to the same values; the result is the first map's
minus lambda times the second's.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from eco.kernels.norm import rms_norm
from eco.models.layers.norm import RMSNorm

_STD = 0.1
"""Of lambda's vectors at the start, as published: at 64 numbers lambda starts within about 0.1 of `init`."""


class LambdaRange(NamedTuple):
    """The second map's weight: where it starts, on average, and between what it stays."""

    init: float = 0.35
    min: float = 0.05
    max: float = 1.20


class Differential(nn.Module):
    """first - lambda x second, where lambda = exp(lq1 . lk1) - exp(lq2 . lk2) + init is learned, one for all heads.

    size: numbers of each of the four vectors.
    """

    def __init__(self, size: int, limits: LambdaRange) -> None:
        super().__init__()
        self.limits = limits
        self.query_1 = nn.Parameter(torch.empty(size))
        self.key_1 = nn.Parameter(torch.empty(size))
        self.query_2 = nn.Parameter(torch.empty(size))
        self.key_2 = nn.Parameter(torch.empty(size))

    @torch.no_grad()
    def init_own(self, generator: torch.Generator) -> None:
        """Draws the four vectors, on the CPU."""
        for vector in self.parameters(recurse=False):
            vector.copy_(torch.empty(vector.shape, device="cpu").normal_(0.0, _STD, generator=generator))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """first, second: of one shape, maps or what they make of the values. Returns their dtype."""
        return first - self.weight() * second

    def weight(self) -> Tensor:
        """lambda, an fp32 scalar."""
        free = (self.query_1 * self.key_1).sum().exp() - (self.query_2 * self.key_2).sum().exp() + self.limits.init
        clamped: Tensor = _Clamp.apply(free, self.limits.min, self.limits.max)  # type: ignore[no-untyped-call]
        return clamped

    def evidence(self) -> float:
        """Norm of the last gradient of lambda's vectors; 0 where there is none."""
        gradients = [vector.grad for vector in self.parameters(recurse=False) if vector.grad is not None]
        return float(torch.cat(gradients).norm()) if gradients else 0.0


class HeadNorm(RMSNorm):
    """(..., heads x size) -> the same: RMSNorm of each head by itself, then times 1 - init.

    The factor keeps the gradients that flow through as large as they were without a second map (section 2.1 of the
    paper).
    """

    def __init__(self, size: int, init: float, eps: float) -> None:
        super().__init__(size, eps)
        self.factor = 1 - init

    def forward(self, x: Tensor) -> Tensor:
        heads = x.view(*x.shape[:-1], -1, len(self.weight))
        return rms_norm(heads, self.weight * self.factor, self.eps).flatten(-2)


class _Clamp(torch.autograd.Function):
    """x between two bounds. Beyond one, the gradient passes only if a step against it leads back between them: plain
    clamping would leave x there forever, and passing every gradient would let it drift ever further away."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, least: float, most: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = least, most
        return x.clamp(least, most)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        least, most = ctx.bounds
        outward = ((x < least) & (gradient > 0)) | ((x > most) & (gradient < 0))
        return gradient.masked_fill(outward, 0.0), None, None
