"""Projection and cross-entropy written out, in the dtype of their inputs (float64 in tests)."""

from torch import Tensor


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """See `eco.kernels.cross_entropy.linear_cross_entropy`."""
    kept = targets != ignore_index
    logits = (hidden @ weight.T)[kept]
    picked = logits.gather(1, targets[kept, None])[:, 0]
    return (logits.exp().sum(-1).log() - picked).mean()


def weighted_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, row_weights: Tensor, ignore_index: int
) -> Tensor:
    """See `eco.kernels.cross_entropy.weighted_cross_entropy`: the first of the two."""
    kept = targets != ignore_index
    logits = (hidden @ weight.T)[kept]
    picked = logits.gather(1, targets[kept, None])[:, 0]
    return ((logits.exp().sum(-1).log() - picked) * row_weights[kept]).mean()
