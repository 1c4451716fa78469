"""Mamba-2's chunked state space duality (arXiv 2405.21060, section 6, listing 1) in plain eager torch: the benchmark's
peer.

Written out from the paper, for keys and queries that the heads share. As there, differences of decay are summed and not
subtracted, and the states of all chunks are combined by one product that is quadratic in their number.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def ssd(x: Tensor, log_decay: Tensor, key: Tensor, query: Tensor, chunk: int) -> Tensor:
    """y_t = query_t . memory_t, memory_t = exp(log_decay_t) memory_{t-1} + key_t x_t^T, from an empty memory.

    x: (B, T, H, P); log_decay: (B, T, H); key, query: (B, T, N). T is a multiple of `chunk`. Returns (B, T, H, P).
    """
    x, log_decay, key, query = (part.unflatten(1, (-1, chunk)) for part in (x, log_decay, key, query))
    decay = log_decay.permute(0, 3, 1, 2)  # (B, H, chunks, c)
    total = decay.cumsum(-1)

    scores = torch.einsum("bcln,bcsn->bcls", query, key)
    inside = torch.einsum("bcls,bhcls,bcshp->bclhp", scores, segment_sums(decay).exp(), x)

    remaining = (total[..., -1:] - total).exp()
    states = torch.einsum("bcln,bhcl,bclhp->bchpn", key, remaining, x)
    states = torch.cat((torch.zeros_like(states[:, :1]), states), dim=1)
    between = segment_sums(F.pad(total[..., -1], (1, 0))).exp()
    states = torch.einsum("bhzc,bchpn->bzhpn", between, states)[:, :-1]

    return (inside + torch.einsum("bcln,bchpn,bhcl->bclhp", query, states, total.exp())).flatten(1, 2)


def segment_sums(values: Tensor) -> Tensor:
    """(..., c) to (..., c, c): at (i, j) the sum of the values j + 1 to i, -inf where j > i."""
    count = values.shape[-1]
    ones = torch.ones(count, count, dtype=torch.bool, device=values.device)
    rows = values[..., None].expand(*values.shape, count).masked_fill(~ones.tril(-1), 0)
    return rows.cumsum(-2).masked_fill(~ones.tril(), -torch.inf)
