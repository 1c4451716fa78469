"""Symmetric products in plain torch, which computes both halves."""

from torch import Tensor


def symmetric_product(a: Tensor, b: Tensor) -> Tensor:
    """See `eco.kernels.symmetric.symmetric_product`."""
    return a @ b.mT
