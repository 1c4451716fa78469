"""Rotary position embedding written out as a complex product, in the dtype of its inputs (float64 in tests)."""

import torch
from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """See `eco.kernels.rotary.rotate`."""
    a, b = x.chunk(2, dim=-1)
    turned = torch.complex(a, b) * torch.complex(cos, sin)
    return torch.cat((turned.real, turned.imag), dim=-1)
