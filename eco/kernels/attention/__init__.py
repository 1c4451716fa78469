"""Self-attention, causal or not, with grouped key and value heads (GQA, arXiv 2305.13245)."""

from torch import Tensor

from eco.kernels.attention import cpu, eager


def causal_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, where position t sees the positions 0..t.

    q: (B, H, T, D); k, v: (B, Hkv, T, D) where Hkv divides H and query head h reads key head h // (H / Hkv).
    dropout: probability that an attention weight becomes zero.
    Returns (B, H, T, D), in any strides.
    """
    if cpu.able(q, k, v, dropout):
        return cpu.causal_attention(q, k, v)
    return eager.attention(q, k, v, True, dropout)


def packed_attention(
    qkv: Tensor,
    heads: int,
    kv_heads: int,
    rotation: tuple[Tensor, Tensor] | None = None,
    dropout: float = 0.0,
    *,
    causal: bool = True,
) -> Tensor:
    """Attention from one projection to the next, without a copy of the heads in between.

    qkv: (B, T, (heads + 2 kv_heads) * D): the query heads, then the key heads, then the value heads.
    rotation: cos and sin, each (T, D/2) fp32, by which queries and keys are turned (see `eco.kernels.rotary`).
    causal: `causal_attention`; where False, every position sees all T.
    Returns (B, T, heads * D).
    """
    if cpu.able(*eager.heads_of(qkv, heads, kv_heads), dropout):
        return cpu.packed_attention(qkv, heads, kv_heads, rotation, causal)
    return eager.packed_attention(qkv, heads, kv_heads, rotation, causal, dropout)
