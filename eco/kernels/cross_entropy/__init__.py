"""The loss of a language model's head: projection to the vocabulary and cross-entropy in one operation."""

from collections.abc import Callable

from torch import Tensor

from eco.kernels.cross_entropy import cpu, eager
from eco.kernels.native import compute_dtype
from eco.kernels.triton import usable as usable_by_triton


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    """The mean cross-entropy in nats of softmax(hidden weight^T) against `targets`, over those not ignored.

    hidden: (N, D); weight: (V, D); targets: (N,) int64. The product runs in autocast's dtype, the softmax in fp32.
    Returns an fp32 scalar: NaN where every target is ignored, as in torch.

    Raises:
        IndexError: a target that is neither in 0 .. V - 1 nor ignored.
    """
    chunked = _chunked(hidden, weight, targets)
    if chunked is not None:
        return chunked(hidden, weight, targets, ignore_index)[0]
    return eager.linear_cross_entropy(hidden, weight, targets, ignore_index)


def weighted_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, row_weights: Tensor, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """The same with each row's loss times its weight, and without weights: fp32 scalars, the second without gradient.

    row_weights: (N,) fp32. Both are sums divided by how many rows are not ignored: weights of mean 1 over a whole
    corpus then give its weighted mean, whatever they are in one batch.
    """
    chunked = _chunked(hidden, weight, targets)
    if chunked is not None:
        return chunked(hidden, weight, targets, ignore_index, row_weights)
    return eager.weighted_cross_entropy(hidden, weight, targets, ignore_index, row_weights)


def _chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """Triton or C++ for these, if one of them takes them."""
    if usable_by_triton(hidden, weight, targets, dtype=compute_dtype(hidden)) and hidden.numel():
        from eco.kernels.cross_entropy import triton  # imports Triton

        return triton.linear_cross_entropy
    return cpu.linear_cross_entropy if cpu.able(hidden, weight, targets) else None
