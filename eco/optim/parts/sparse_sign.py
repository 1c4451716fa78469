"""Sign descent on the rows of a table that a step touched (signSGD: Bernstein et al., arXiv 1802.04434)."""

import torch
from torch import Tensor


@torch.no_grad()
def step_rows(table: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
    """w <- w (1 - lr x weight_decay) - lr x sign(g) for the rows w that occur in `gradient`; all others stay.

    table: (rows, width), updated in place.
    gradient: sparse COO (rows, width); g is the sum of a row's entries.

    A row is touched seldom, and the size of its gradient depends on how many samples share the batch: the sign gives
    every visit the same weight, and needs no memory of the visits before. HRM (arXiv 2506.21734) trains its table so.
    """
    summed = gradient.coalesce()
    rows = summed.indices()[0]
    updated = table[rows].mul_(1 - lr * weight_decay).sub_(summed.values().sign(), alpha=lr)
    table.index_copy_(0, rows, updated)
