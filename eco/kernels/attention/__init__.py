"""Self-attention, causal or not, with grouped key and value heads (GQA, arXiv 2305.13245).

Queries and keys may have further numbers, `extra`: of each query (B, T, H, E) and of each key (B, T, Hkv, E). Their
products join those of the D numbers before the division by sqrt(D), so that a bias of low rank costs no mask. They are
fp32, rounded to the dtype of q where they are multiplied, so that their gradients can be fp32.
"""

from torch import Tensor

from eco.kernels.attention import cpu, eager
from eco.kernels.attention.eager import Extra, joined

__all__ = ["Extra", "causal_attention", "joined", "packed_attention"]


def causal_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, extra: Extra | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, where position t sees the positions 0..t.

    q: (B, H, T, D); k, v: (B, Hkv, T, D) where Hkv divides H and query head h reads key head h // (H / Hkv).
    dropout: probability that an attention weight becomes zero.
    Returns (B, H, T, D), in any strides.
    """
    if cpu.able(q, k, v, dropout, extra):
        return cpu.causal_attention(q, k, v, extra)
    return eager.attention(q, k, v, True, dropout, extra)


def packed_attention(
    qkv: Tensor,
    heads: int,
    kv_heads: int,
    rotation: tuple[Tensor, Tensor] | None = None,
    dropout: float = 0.0,
    *,
    causal: bool = True,
    extra: Extra | None = None,
) -> Tensor:
    """Attention from one projection to the next, without a copy of the heads in between.

    qkv: (B, T, (heads + 2 kv_heads) * D): the query heads, then the key heads, then the value heads.
    rotation: cos and sin, each (T, D/2) fp32, by which queries and keys are turned (see `eco.kernels.rotary`); their
    `extra` numbers are not.
    causal: `causal_attention`; where False, every position sees all T.
    Returns (B, T, heads * D).
    """
    if cpu.able(*eager.heads_of(qkv, heads, kv_heads), dropout, extra):
        return cpu.packed_attention(qkv, heads, kv_heads, rotation, causal, extra)
    return eager.packed_attention(qkv, heads, kv_heads, rotation, causal, dropout, extra)
