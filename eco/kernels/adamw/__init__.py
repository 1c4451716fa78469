"""One step of AdamW (arXiv 1711.05101) whose moments are bf16, rounded stochastically so that small changes add up.

A moment in bf16 has steps of 0.4 %: rounded to nearest, a decay of 0.999 would never move it. Rounded up or down with
the probabilities that keep its mean, it follows, with some noise, what it would be in fp32.
"""

import torch
from torch import Tensor

from eco.kernels.adamw import cpu, eager
from eco.kernels.adamw.rule import Rule, mix


@torch.no_grad()
def adamw_(weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, rule: Rule, number: int) -> None:
    """Updates weight, mean and square in place: all of one shape, the first two fp32, the moments bf16.

    The weight sees the new moments before they are rounded. Each rounding draws 16 bits from a hash of the step's
    count, the parameter's `number` and the element's index: the result does not depend on the number of threads, and
    plain torch and the C++ agree bit for bit.
    """
    passes = cpu if cpu.able(weight, gradient) else eager
    passes.adamw_(weight, gradient, mean, square, rule, key(rule.count, number))
    torch.autograd.graph.increment_version(weight)


def key(count: int, number: int) -> int:
    """32 bits that name one step of one parameter."""
    return mix(mix(count) ^ number)
