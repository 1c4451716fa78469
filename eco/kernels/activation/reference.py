"""Nonlinearities written out, in the dtype of their inputs (float64 in tests)."""

import math
from typing import Literal

import torch
from torch import Tensor


def swiglu(gate_up: Tensor) -> Tensor:
    """See `eco.kernels.activation.swiglu`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return gate / (1 + torch.exp(-gate)) * up


def gelu(x: Tensor, approximate: Literal["none", "tanh"]) -> Tensor:
    """See `eco.kernels.activation.gelu`."""
    if approximate == "tanh":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
