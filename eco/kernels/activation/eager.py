"""Nonlinearities in plain torch."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def swiglu(gate_up: Tensor) -> Tensor:
    """See `eco.kernels.activation.swiglu`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def gelu(x: Tensor, approximate: Literal["none", "tanh"]) -> Tensor:
    """See `eco.kernels.activation.gelu`."""
    return F.gelu(x, approximate=approximate)
