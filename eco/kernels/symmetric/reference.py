"""A symmetric product written out, from its lower half."""

import torch
from torch import Tensor


def symmetric_product(a: Tensor, b: Tensor) -> Tensor:
    """a b^T of stacks (N, m, k), in the dtype of the inputs (float64 in tests), (N, m, m)."""
    lower = torch.einsum("nik,njk->nij", a, b).tril()
    return lower + lower.tril(-1).mT
