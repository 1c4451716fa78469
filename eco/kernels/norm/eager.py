"""Normalisation in plain torch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from eco.kernels.native import compute_dtype


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `eco.kernels.norm.rms_norm`."""
    dtype = compute_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        return F.rms_norm(_wide(x), weight.shape, _wide(weight), eps).to(dtype)


def add_unit_rms_norm(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    """See `eco.kernels.norm.add_unit_rms_norm`."""
    dtype = compute_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        return F.rms_norm(_wide(x) + _wide(delta), x.shape[-1:], eps=eps).to(dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """See `eco.kernels.norm.layer_norm`."""
    dtype = compute_dtype(x)
    shift = None if bias is None else _wide(bias)
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(_wide(x), weight.shape, _wide(weight), shift, eps).to(dtype)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
