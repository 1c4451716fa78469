"""Rotary position embedding."""

from torch import Tensor

from eco.kernels.rotary import eager


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair (x[i], x[i + D/2]) by its angle (RoPE, arXiv 2104.09864, in the half-split order of Llama).

    x: (B, H, T, D); cos, sin: fp32, (T, D/2) or anything that broadcasts to (B, H, T, D/2).
    Computed in fp32; returns the dtype of x.
    """
    return eager.rotate(x, cos, sin)
