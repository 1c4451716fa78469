"""Attention in plain torch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from eco.kernels.rotary.eager import rotate


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float) -> Tensor:
    """See `eco.kernels.attention.causal_attention`; where not causal, every position sees all."""
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal, enable_gqa=grouped)


def packed_attention(
    qkv: Tensor, heads: int, kv_heads: int, rotation: tuple[Tensor, Tensor] | None, causal: bool, dropout: float
) -> Tensor:
    """See `eco.kernels.attention.packed_attention`."""
    q, k, v = heads_of(qkv, heads, kv_heads)
    if rotation is not None:
        q, k = rotate(q, *rotation), rotate(k, *rotation)
    return attention(q, k, v, causal, dropout).transpose(1, 2).flatten(2)


def heads_of(qkv: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """The views q (B, H, T, D), k and v (B, Hkv, T, D) of qkv (B, T, (H + 2 Hkv) * D)."""
    every = qkv.view(*qkv.shape[:2], heads + 2 * kv_heads, -1).transpose(1, 2)
    q, k, v = torch.split(every, [heads, kv_heads, kv_heads], dim=1)
    return q, k, v
