"""One new token for each row, through all layers of a transformer in one C++ call.

There is no torch twin in this folder: a model's own `forward` is the slow way and the reference.
"""

import torch

from eco.kernels.decode.fused import FusedDecoder, Store
from eco.kernels.decode.plan import Plan
from eco.kernels.native import usable

__all__ = ["FusedDecoder", "Plan", "Store", "fused_decoder"]


def fused_decoder(plan: Plan) -> FusedDecoder | None:
    """The plan's fused step, or None where there is none: weights not in fp32 on the CPU, or no C++ kernels."""
    return FusedDecoder(plan) if plan.embedding.dtype == torch.float32 and usable(plan.embedding) else None
