"""Normalisation in plain torch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `eco.kernels.norm.rms_norm`."""
    with torch.autocast(x.device.type, enabled=False):
        return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """See `eco.kernels.norm.layer_norm`."""
    shift = None if bias is None else bias.float()
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x.float(), weight.shape, weight.float(), shift, eps).to(x.dtype)
