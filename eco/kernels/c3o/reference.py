"""One C3O step written out, in the dtype of its inputs (float64 in tests), nothing rounded, block by block."""

from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor


def c3o(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    scales: list[float],
    offsets: list[int],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    damping: float,
    weight_decay: float,
    radius: float,
    count: int,
    rest: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The new weight and moments of one flattened tensor; rest: the least root mean square that the weight counts with.

    Adam's update (arXiv 1412.6980) with scaled blocks is brought back to its norm, and then under the trust radius.
    """
    mean = beta1 * mean + (1 - beta1) * gradient
    square = beta2 * square + (1 - beta2) * gradient**2
    update = lr * mean / (1 - beta1**count) / ((square / (1 - beta2**count)).sqrt() + damping)
    blocks = [update[begin:end] for begin, end in pairwise(offsets)]
    scaled = torch.cat([scale * block for scale, block in zip(scales, blocks, strict=True)])
    if scaled.norm() > 0:
        scaled = scaled * (update.norm() / scaled.norm())
    limit = radius * max(float(weight.norm()), rest * sqrt(weight.numel()))
    if scaled.norm() > limit:
        scaled = scaled * (limit / scaled.norm())
    return weight - lr * weight_decay * weight - scaled, mean, square
