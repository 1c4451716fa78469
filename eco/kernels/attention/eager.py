"""Attention in plain torch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from eco.kernels.rotary.eager import rotate

Extra = tuple[Tensor, Tensor]
"""The further numbers of each query (B, T, H, E) and of each key (B, T, Hkv, E)."""


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float, extra: Extra | None = None) -> Tensor:
    """See `eco.kernels.attention.causal_attention`; where not causal, every position sees all."""
    grouped = q.shape[1] != k.shape[1]
    if extra is None:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal, enable_gqa=grouped)
    size, scale = q.shape[-1], 1 / math.sqrt(q.shape[-1])
    q, k = joined(q, extra[0]), joined(k, extra[1])
    # The fast kernels have one head size.
    v = F.pad(v, (0, k.shape[-1] - size))
    y = F.scaled_dot_product_attention(q, k, v, None, dropout, causal, scale=scale, enable_gqa=grouped)
    return y[..., :size]


def joined(heads: Tensor, extra: Tensor) -> Tensor:
    """(B, H, T, D) and the further numbers (B, T, H, E) -> (B, H, T, D + E) in the dtype of `heads`."""
    return torch.cat([heads, extra.transpose(1, 2).to(heads.dtype)], dim=-1)


def packed_attention(
    qkv: Tensor,
    heads: int,
    kv_heads: int,
    rotation: tuple[Tensor, Tensor] | None,
    causal: bool,
    dropout: float,
    extra: Extra | None = None,
) -> Tensor:
    """See `eco.kernels.attention.packed_attention`."""
    q, k, v = heads_of(qkv, heads, kv_heads)
    if rotation is not None:
        q, k = rotate(q, *rotation), rotate(k, *rotation)
    return attention(q, k, v, causal, dropout, extra).transpose(1, 2).flatten(2)


def heads_of(qkv: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """The views q (B, H, T, D), k and v (B, Hkv, T, D) of qkv (B, T, (H + 2 Hkv) * D)."""
    every = qkv.view(*qkv.shape[:2], heads + 2 * kv_heads, -1).transpose(1, 2)
    q, k, v = torch.split(every, [heads, kv_heads, kv_heads], dim=1)
    return q, k, v
