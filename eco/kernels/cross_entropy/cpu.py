"""Projection and cross-entropy with the C++ in cross_entropy.cpp: fp32 and bf16 on the CPU."""

import torch
from torch import Tensor

from eco.kernels import native
from eco.kernels.cross_entropy import chunked

_LOGITS_BYTES = 16 << 20
"""Logits at a time: they stay in a last-level cache, and the products are large enough to run at full speed."""


def able(hidden: Tensor, weight: Tensor, targets: Tensor) -> bool:
    """Whether the C++ does these."""
    dtype = native.compute_dtype(hidden)
    return dtype in (torch.float32, torch.bfloat16) and hidden.numel() > 0 and native.usable(hidden, weight, targets)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, row_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See `eco.kernels.cross_entropy.linear_cross_entropy` and `weighted_cross_entropy`."""
    by = chunked.Pass(_differentiate, _LOGITS_BYTES)
    return chunked.linear_cross_entropy(hidden, weight, targets, ignore_index, row_weights, by)


def _differentiate(logits: Tensor, targets: Tensor, ignore_index: int, losses: Tensor) -> None:
    name = f"cross_entropy_{native.type_name(logits.dtype)}"
    native.call(name, *logits.shape, logits, targets, ignore_index, losses)
