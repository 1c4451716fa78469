"""Normalisation over the last dimension."""

from torch import Tensor

from eco.kernels.norm import eager


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (arXiv 1910.07467).

    x: (..., D); weight: (D,). Computed in fp32 whatever x is; returns the dtype of x.
    """
    return eager.rms_norm(x, weight, eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension (arXiv 1607.06450).

    x: (..., D); weight, bias: (D,). Computed in fp32 whatever x is; returns the dtype of x.
    """
    return eager.layer_norm(x, weight, bias, eps)
