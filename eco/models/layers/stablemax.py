"""Stablemax, a softmax whose scores grow linearly instead of exponentially (arXiv 2501.04697).

s(x) = x + 1 for x >= 0 and 1 / (1 - x) below, so log s(x) = sign(x) log(1 + |x|): stablemax is the softmax of these
logarithms. On that scale nothing overflows or cancels, and fp32 does what the published code takes fp64 for.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from eco.models.contract import IGNORE


def stablemax_logits(x: Tensor) -> Tensor:
    """log s(x), in fp32 or wider: what a softmax has to be given to be the stablemax of x."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    # Not sign(x) * log1p(|x|): its gradient at 0, where both branches have slope 1, would be 0.
    return torch.where(x >= 0, x.clamp(min=0).log1p(), -(-x).clamp(min=0).log1p())


def stablemax_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Each row's mean of -log stablemax at its targets, in nats.

    logits: (B, L, V); targets: (B, L) int64, IGNORE where none. Returns (B,), fp32 or wider; without targets 0.
    """
    losses = F.cross_entropy(
        stablemax_logits(logits).flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none"
    )
    asked = (targets != IGNORE).sum(-1).clamp(min=1)
    return losses.view_as(targets).sum(-1) / asked
