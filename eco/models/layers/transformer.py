"""What all decoder-only transformers share: the blocks in a row, the KV cache, the arithmetic cost."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eco.kernels.native import compute_dtype
from eco.kernels.rotary import rotate
from eco.models.contract import Cache
from eco.models.layers.attention import MultiHeadAttention
from eco.models.layers.cache import KVCache, Past
from eco.models.layers.headed import HeadedModel
from eco.models.layers.init import init_transformer
from eco.models.layers.norm import LayerNorm, RMSNorm
from eco.models.layers.rotary import Rotation

Stream = tuple[Tensor, Tensor | None]
"""The residual stream, (B, T, width): x + delta. The next norm adds them: it reads both anyway. None is zero."""


class Transformer(HeadedModel):
    """A language model of `blocks`, each called as block(*stream, rotation, past), between `embedding` and head."""

    norm: LayerNorm | RMSNorm

    conditioning: str = ""
    """Names what its logits depend on beside weights and tokens: prompts under one name share no cached prefix with
    those under another."""

    def run_blocks(self, x: Tensor, rotation: Rotation | None = None, cache: Cache | None = None) -> Tensor:
        """x (B, T, width) through all blocks and the last norm; extends the cache by T positions."""
        keep = cache is None and torch.is_grad_enabled()
        stream: Stream = x, None
        for index, past in enumerate(self.pasts(cache, x.shape[1])):
            stream = self.run_block(index, (*stream, rotation, past), keep)
        return self.norm.add(*stream)[1]

    def pasts(self, cache: Cache | None, count: int) -> Sequence[Past | None]:
        """Each block's part of the cache, which is extended by `count` positions; without a cache, None for each."""
        assert cache is None or isinstance(cache, KVCache)
        return cache.extend(count) if cache is not None else [None] * len(self.blocks)

    def new_cache(self, batch: int, length: int, padding: Tensor | None = None) -> KVCache:
        attention = self.blocks[0].attention
        assert isinstance(attention, MultiHeadAttention)
        weight = self.embedding.weight
        return KVCache(
            len(self.blocks),
            batch,
            attention.kv_heads,
            length,
            attention.head_size,
            dtype=compute_dtype(weight),
            device=weight.device,
            padding=padding,
            key_size=attention.key_size,
        )

    def moved_keys(self, keys: Tensor, columns: int) -> Tensor:
        """Cached keys (..., T, D) as they would be `columns` further right in the cache, behind so much more padding.

        Rotary angles are those of columns, so the rotated dimensions turn on; learned positions do not know columns.
        """
        rotary = getattr(self, "rotary", None)
        if not columns or rotary is None:
            return keys
        cos, sin = rotary(abs(columns), 1)
        turning = 2 * cos.shape[-1]
        turned = rotate(keys[..., :turning], cos, sin if columns > 0 else -sin)
        return torch.cat([turned, keys[..., turning:]], -1)

    def init_weights(self, generator: torch.Generator) -> None:
        init_transformer(self, len(self.blocks), generator)

    def flops_per_token(self) -> float:
        matrices = sum(m.weight.numel() for m in self.blocks.modules() if isinstance(m, nn.Linear))
        matrices += self.head_weight.numel()
        return 6.0 * matrices + 12.0 * len(self.blocks) * self.embedding.embedding_dim * self.config.context
