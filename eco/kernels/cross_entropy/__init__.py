"""The loss of a language model's head: projection to the vocabulary and cross-entropy in one operation."""

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
    if usable_by_triton(hidden, weight, targets, dtype=compute_dtype(hidden)) and hidden.numel():
        from eco.kernels.cross_entropy import triton  # imports Triton

        return triton.linear_cross_entropy(hidden, weight, targets, ignore_index)
    if cpu.able(hidden, weight, targets):
        return cpu.linear_cross_entropy(hidden, weight, targets, ignore_index)
    return eager.linear_cross_entropy(hidden, weight, targets, ignore_index)
