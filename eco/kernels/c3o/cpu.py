"""C3O by the C++ in c3o.cpp: two passes over memory, 40 bytes for each weight, 28 with moments in bf16."""

import torch
from torch import Tensor

from eco.kernels import native
from eco.kernels.c3o.layout import Layout
from eco.kernels.c3o.rule import Factors


def able(weight: Tensor, gradient: Tensor) -> bool:
    """Whether the C++ does these: fp32 on the CPU, the weight contiguous."""
    return weight.dtype == gradient.dtype == torch.float32 and weight.is_contiguous() and native.usable(weight)


def c3o_(
    weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, scales: Tensor | None, at: Layout, f: Factors
) -> Tensor:
    """See `eco.kernels.c3o.c3o_`."""
    gradient, outcome = gradient.contiguous(), torch.empty(3)
    name = f"c3o_{native.type_name(mean.dtype)}"
    sizes = (len(at.owner), at.pieces, at.owner, at.blocks)
    native.call(name, f, *sizes, scales, weight, gradient, mean, square, outcome)
    return outcome
