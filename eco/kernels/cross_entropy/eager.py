"""Projection and cross-entropy in plain torch."""

import torch.nn.functional as F
from torch import Tensor


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """See `eco.kernels.cross_entropy.linear_cross_entropy`."""
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, ignore_index=ignore_index)


def weighted_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, row_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """See `eco.kernels.cross_entropy.weighted_cross_entropy`."""
    logits = F.linear(hidden, weight).float()
    losses = F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="none")
    count = (targets != ignore_index).sum()
    return (losses * row_weights).sum() / count, losses.detach().sum() / count
