"""The passes of rows.py in plain torch."""

import torch
from torch import Tensor


def combine(y: Tensor, weights: Tensor | None, row: Tensor) -> Tensor:
    """(rows, W), (N, k) or None for ones, (N, k) -> (N, W): each token's rows, weighted and added in fp32 or wider."""
    picked = y.index_select(0, row.flatten()).view(*row.shape, -1)
    wide = torch.promote_types(y.dtype, torch.float32)
    if weights is None:
        return picked.sum(1, dtype=wide).to(y.dtype)
    return (picked * weights[..., None].to(wide)).sum(1).to(y.dtype)


def combine_backward(y: Tensor, weights: Tensor, row: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of y and of the weights."""
    slots = row.flatten()
    wide = dout[:, None].to(torch.promote_types(y.dtype, torch.float32))
    dpicked = (wide * weights[..., None]).to(y.dtype).flatten(0, 1)
    dweights = (y.index_select(0, slots).view(*row.shape, -1) * wide).sum(-1)
    return torch.zeros_like(y).index_copy_(0, slots, dpicked), dweights.to(weights.dtype)
