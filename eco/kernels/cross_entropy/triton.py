"""Projection and cross-entropy with a Triton kernel for what is not a product: fp32, fp16 and bf16."""

import triton
import triton.language as tl
from torch import Tensor

from eco.kernels.cross_entropy import chunked

_LOGITS_BYTES = 256 << 20
"""Logits at a time: little beside a GPU's memory, and enough rows for its products."""

_MOST_COLUMNS = 4096
"""Logits of a row that a program holds at a time."""


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, row_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See `eco.kernels.cross_entropy.linear_cross_entropy` and `weighted_cross_entropy`."""
    by = chunked.Pass(_differentiate, _LOGITS_BYTES)
    return chunked.linear_cross_entropy(hidden, weight, targets, ignore_index, row_weights, by)


def _differentiate(logits: Tensor, targets: Tensor, ignore_index: int, losses: Tensor) -> None:
    rows, vocabulary = logits.shape
    block = min(_MOST_COLUMNS, triton.next_power_of_2(vocabulary))
    _losses_and_gradients[(rows,)](logits, targets, losses, ignore_index, vocabulary, BLOCK=block, num_warps=8)


@triton.jit
def _losses_and_gradients(logits, targets, losses, ignore_index, vocabulary, BLOCK: tl.constexpr):
    """One program per row reads it twice: for the largest logit and the sum of exponentials, and to overwrite it."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocabulary
    target = tl.load(targets + row)
    kept = target != ignore_index
    column = tl.arange(0, BLOCK)
    largest = tl.full([BLOCK], -1e38, tl.float32)  # below all logits, and unlike -inf it can be subtracted from itself
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, vocabulary, BLOCK):
        x = tl.load(logits + first + column, mask=first + column < vocabulary, other=float("-inf")).to(tl.float32)
        above = tl.maximum(largest, x)
        total = total * tl.exp(largest - above) + tl.exp(x - above)
        largest = above
    top = tl.max(largest)
    log_sum = top + tl.log(tl.sum(total * tl.exp(largest - top)))
    picked = tl.load(logits + target, mask=kept, other=0.0).to(tl.float32)
    tl.store(losses + row, tl.where(kept, log_sum - picked, 0.0))
    for first in range(0, vocabulary, BLOCK):
        here = first + column < vocabulary
        x = tl.load(logits + first + column, mask=here, other=0.0).to(tl.float32)
        gradient = tl.exp(x - log_sum) - tl.where(first + column == target, 1.0, 0.0)
        tl.store(logits + first + column, tl.where(kept, gradient, 0.0).to(logits.dtype.element_ty), mask=here)
