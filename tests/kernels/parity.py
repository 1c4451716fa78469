"""How a kernel is compared with its reference in float64."""

from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[..., Tensor | tuple[Tensor, ...]]


def run(function: Function, inputs: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """Outputs, then the gradients of all floating inputs, for fixed random gradients of the outputs, in float64.

    dtype: converts the floating inputs first.
    """
    leaves = [_leaf(x, dtype or x.dtype) if x.is_floating_point() else x for x in inputs]
    outputs = function(*leaves)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    generator = torch.Generator().manual_seed(7)
    gradients = [torch.randn(o.shape, generator=generator).bfloat16().to(o.dtype) for o in outputs]
    torch.autograd.backward(outputs, gradients)
    found = [x.grad for x in leaves if x.requires_grad]
    assert all(g is not None for g in found)
    return [x.detach().double() for x in [*outputs, *found] if x is not None]


def error(found: Tensor, expected: Tensor) -> float:
    """Relative error in the Euclidean norm."""
    return ((found - expected).norm() / expected.norm()).item()


def _leaf(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.detach().to(dtype, copy=True).requires_grad_()
