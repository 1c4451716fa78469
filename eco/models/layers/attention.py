"""Causal self-attention with grouped queries (GQA, arXiv 2305.13245); as many key heads as heads is the usual kind."""

import math
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from eco.kernels.attention import Extra, causal_attention, joined, packed_attention
from eco.kernels.rotary import rotate
from eco.models.layers.cache import Past
from eco.models.layers.linear import StackedLinear
from eco.models.layers.norm import RMSNorm
from eco.models.layers.rotary import Rotation


class MultiHeadAttention(nn.Module):
    """What the kinds of self-attention share: the projections, the heads' attention, and the cache.

    `qkv` yields the query heads, then the key heads, then the value heads. QK-norm (arXiv 2302.05442) is an RMSNorm
    over each query and key head before the rotation; it is on where `qk_norm_eps` is given.

    key_size: how many numbers of each key the cache keeps.
    """

    attention_inputs = ("qkv",)
    """The layers that read queries, keys and values: an optimizer may take them together with those of other blocks."""

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        *,
        bias: bool,
        dropout: float,
        qk_norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = heads, kv_heads, width // heads
        self.key_size = self.head_size
        self.dropout = dropout
        rows = [count * self.head_size for count in (heads, kv_heads, kv_heads)]
        self.qkv = StackedLinear(width, rows, bias=bias)
        self.qkv.unit_rows = (self.head_size,) * (heads + 2 * kv_heads)
        self.query_norm = RMSNorm(self.head_size, qk_norm_eps) if qk_norm_eps is not None else None
        self.key_norm = RMSNorm(self.head_size, qk_norm_eps) if qk_norm_eps is not None else None
        self.output = nn.Linear(width, width, bias=bias)

    def attend(self, x: Tensor, rotation: Rotation | None, past: Past | None, extra: Extra | None = None) -> Tensor:
        """(B, T, width) -> (B, T, width). extra: see `eco.kernels.attention`; the cache keeps the keys' with them."""
        dropout = self.dropout if self.training else 0.0
        if past is None and self.query_norm is None:
            packed = packed_attention(self.qkv(x), self.heads, self.kv_heads, rotation, dropout, extra=extra)
            return cast(Tensor, self.output(packed))
        q, k, v = self._heads_of(x, rotation)
        if past is not None:
            keys, values = past.append(k if extra is None else joined(k, extra[1]), v)
        if past is None or (past.start == 0 and past.mask is None):
            y = causal_attention(q, k, v, dropout, extra)
        else:
            q = (q if extra is None else joined(q, extra[0])).to(keys.dtype)
            scale, grouped = 1 / math.sqrt(self.head_size), self.heads != self.kv_heads
            y = F.scaled_dot_product_attention(q, keys, values, past.mask, scale=scale, enable_gqa=grouped)
        merged: Tensor = self.output(y.transpose(1, 2).flatten(2))
        return merged

    def scores_inputs(self, x: Tensor, rotation: Rotation | None = None) -> tuple[Tensor, Tensor, float]:
        """Queries (B, H, T, D), keys (B, Hkv, T, D) and the scale s of the causal attention softmax(s q k^T) on x."""
        q, k, _ = self._heads_of(x, rotation)
        return q, k, self.head_size**-0.5

    def _heads_of(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, D), keys and values (B, Hkv, T, D)."""
        heads = self.qkv(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        return q, k, v


class Attention(MultiHeadAttention):
    """(B, T, width) -> (B, T, width), by queries and keys alone."""

    def forward(self, x: Tensor, rotation: Rotation | None = None, past: Past | None = None) -> Tensor:
        return self.attend(x, rotation, past)
