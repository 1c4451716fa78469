"""Normalisation over the last dimension, alone or after an addition to the residual stream."""

from torch import Tensor

from eco.kernels.norm import cpu, eager


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (arXiv 1910.07467).

    x: (..., D); weight: (D,). Computed in fp32; returns autocast's dtype, outside autocast that of x.
    """
    return cpu.rms_norm(x, weight, eps) if cpu.able(x, weight) else eager.rms_norm(x, weight, eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension (arXiv 1607.06450).

    x: (..., D); weight, bias: (D,). Computed in fp32; returns autocast's dtype, outside autocast that of x.
    """
    if cpu.able(x, weight):
        return cpu.layer_norm(x, weight, bias, eps)
    return eager.layer_norm(x, weight, bias, eps)


def add_rms_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + delta, in the dtype of x, and its `rms_norm`. Both (..., D)."""
    if cpu.able(x, weight, delta):
        return cpu.add_rms_norm(x, delta, weight, eps)
    total = x + delta
    return total, eager.rms_norm(total, weight, eps)


def add_unit_rms_norm(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    """total / sqrt(mean(total^2) + eps) over the last dimension, where total = x + delta: a block's post-norm, no gain.

    x, delta: (..., D). Computed in fp32, the sum too; returns autocast's dtype, outside autocast that of x.
    """
    if x.dtype == delta.dtype and cpu.able(x, None, delta):
        return cpu.add_unit_rms_norm(x, delta, eps)
    return eager.add_unit_rms_norm(x, delta, eps)


def add_layer_norm(x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """x + delta, in the dtype of x, and its `layer_norm`. Both (..., D)."""
    if cpu.able(x, weight, delta):
        return cpu.add_layer_norm(x, delta, weight, bias, eps)
    total = x + delta
    return total, eager.layer_norm(total, weight, bias, eps)
