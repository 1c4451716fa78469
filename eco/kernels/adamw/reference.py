"""One step of AdamW written out, in the dtype of its inputs (float64 in tests), nothing rounded."""

from math import sqrt

from torch import Tensor


def adamw(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    count: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The new weight and moments (arXiv 1711.05101, algorithm 2, with the decay scaled by lr alone)."""
    mean = beta1 * mean + (1 - beta1) * gradient
    square = beta2 * square + (1 - beta2) * gradient**2
    update = mean / (1 - beta1**count) / (square.sqrt() / sqrt(1 - beta2**count) + eps)
    return weight - lr * weight_decay * weight - lr * update, mean, square
