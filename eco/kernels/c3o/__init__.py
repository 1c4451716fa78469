"""One step of C3O (see `eco.optim.c3o`): Adam's moments, the update's size measured, blocks scaled, the weights moved.

The moments may be fp32, or bf16 rounded stochastically as in `eco.kernels.adamw`. The weights move by the moments as
they are stored, so that the change can be told from them afterwards.
"""

import torch
from torch import Tensor

from eco.kernels.adamw import key
from eco.kernels.c3o import cpu, eager
from eco.kernels.c3o.layout import Layout
from eco.kernels.c3o.rule import Rule, factors


@torch.no_grad()
def c3o_(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    scales: Tensor | None,
    at: Layout,
    rule: Rule,
    number: int,
) -> Tensor:
    """Updates weight, mean and square in place: all of one shape, contiguous, the first two fp32.

    scales: (blocks,) fp32, what each block's update is multiplied by; they are multiplied in place by the one number
        that gives the whole update the norm it has without them. None: ones.
    number: of the parameter, for the random bits.
    Returns (3,) fp32: the size that multiplied the update of a block with scale 1 (see `change`), the norm of the
    whole update, and the trust ratio, 1 where the radius did not limit it. Plain torch and the C++ agree bit for bit.
    """
    f = factors(rule, key(rule.count, number), weight.numel())
    passes = cpu if cpu.able(weight, gradient) else eager
    outcome: Tensor = passes.c3o_(weight, gradient, mean, square, scales, at, f)
    torch.autograd.graph.increment_version(weight)
    return outcome


@torch.no_grad()
def change(mean: Tensor, square: Tensor, size: Tensor, scales: Tensor | None, at: Layout, rule: Rule) -> Tensor:
    """What the step that left these moments added to the weights, weight decay apart: fp32, of their shape.

    size: the first of what `c3o_` returned; scales: as it left them.
    """
    return eager.change(mean, square, size, scales, at, factors(rule, 0, mean.numel()))
