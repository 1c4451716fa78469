"""Normalisation written out, in the dtype of its inputs (float64 in tests)."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `eco.kernels.norm.rms_norm`."""
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def add_unit_rms_norm(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    """See `eco.kernels.norm.add_unit_rms_norm`."""
    total = x + delta
    return total / torch.sqrt((total * total).mean(-1, keepdim=True) + eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """See `eco.kernels.norm.layer_norm`."""
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + eps) * weight
    return scaled if bias is None else scaled + bias
