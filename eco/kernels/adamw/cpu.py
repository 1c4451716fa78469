"""AdamW with bf16 moments by the C++ in adamw.cpp: one pass, 20 bytes for each weight."""

import torch
from torch import Tensor

from eco.kernels import native
from eco.kernels.adamw.rule import Rule, factors


def able(weight: Tensor, gradient: Tensor) -> bool:
    """Whether the C++ does these: fp32 on the CPU, the weight contiguous."""
    return weight.dtype == gradient.dtype == torch.float32 and weight.is_contiguous() and native.usable(weight)


def adamw_(weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, rule: Rule, key: int) -> None:
    """See `eco.kernels.adamw.adamw_`."""
    gradient = gradient.contiguous()
    native.call("adamw", factors(rule, key), weight.numel(), weight, gradient, mean, square)
