"""Ternary linear layers written out, in the dtype of their inputs (float64 in tests); gradients are autograd's."""

from collections.abc import Sequence

import torch
from torch import Tensor

EPS = 1e-8


def ternarise(weight: Tensor, row_blocks: Sequence[int]) -> tuple[Tensor, Tensor]:
    """See `eco.kernels.ternary.ternarise`."""
    blocks = torch.split(weight, list(row_blocks))
    scale = torch.stack([block.abs().mean() for block in blocks])
    codes = [(block / (gamma + EPS)).round().clip(-1, 1) for block, gamma in zip(blocks, scale, strict=True)]
    return torch.cat(codes), scale


def round_rows(x: Tensor) -> Tensor:
    """x (n, D) in 255 steps between -max|row| and max|row|; a row of zeros stays one."""
    step = x.abs().amax(1, keepdim=True) / 127
    return torch.where(step > 0, (x / step).round().clip(-128, 127) * step, 0.0)


def ternary_linear(
    x: Tensor,
    weight: Tensor,
    row_blocks: Sequence[int],
    offsets: Tensor | None = None,
) -> Tensor:
    """See `eco.kernels.ternary.ternary_linear`: each rounding has the derivative 1."""
    codes, scale = ternarise(weight, row_blocks)
    rounded = torch.cat([c * s for c, s in zip(torch.split(codes, list(row_blocks)), scale, strict=True)])
    w = weight + (rounded - weight).detach()
    x = x + (round_rows(x) - x).detach()
    if offsets is None:
        return x @ w.T
    parts = torch.split(x, offsets.diff().tolist())
    return torch.cat([part @ expert.T for part, expert in zip(parts, w.chunk(len(parts)), strict=True)])
