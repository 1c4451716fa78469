"""Causal self-attention with grouped key and value heads."""

from torch import Tensor

from eco.kernels.attention import eager


def causal_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, where position t sees the positions 0..t.

    q: (B, H, T, D); k, v: (B, Hkv, T, D) where Hkv divides H and query head h reads key head h // (H / Hkv).
    dropout: probability that an attention weight becomes zero.
    Returns (B, H, T, D), in any strides.
    """
    return eager.causal_attention(q, k, v, dropout)
