"""Grouped products by torch's own kernel, which reads the offsets where they lie: the host never waits for the GPU."""

import torch
import torch.nn.functional as F
from torch import Tensor

from eco.kernels.native import compute_dtype

_ALIGNMENT = 8
"""Rows start at multiples of 16 bytes: that many bf16."""


def able(x: Tensor, weight: Tensor) -> bool:
    """Whether torch's kernel does this: bf16 on an NVIDIA GPU."""
    return x.is_cuda and compute_dtype(x) == torch.bfloat16 and x.shape[1] % _ALIGNMENT == 0 == len(weight) % _ALIGNMENT


def grouped_linear(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """See `eco.kernels.grouped.grouped_linear`; both cast to bf16."""
    groups = weight.to(torch.bfloat16).view(len(offsets) - 1, -1, x.shape[1])
    return F.grouped_mm(x.to(torch.bfloat16), groups.transpose(1, 2), offs=offsets[1:])
