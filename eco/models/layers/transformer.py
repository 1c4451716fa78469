"""What all decoder-only transformers share: the blocks in a row, the KV cache, the arithmetic cost."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eco.kernels.native import compute_dtype
from eco.models.contract import Cache
from eco.models.layers.attention import Attention
from eco.models.layers.cache import KVCache
from eco.models.layers.headed import HeadedModel
from eco.models.layers.init import init_transformer
from eco.models.layers.norm import LayerNorm, RMSNorm
from eco.models.layers.rotary import Rotation

Stream = tuple[Tensor, Tensor | None]
"""The residual stream, (B, T, width): x + delta. The next norm adds them: it reads both anyway. None is zero."""


class Transformer(HeadedModel):
    """A language model of `blocks`, each called as block(*stream, rotation, past), between `embedding` and head."""

    blocks: nn.ModuleList
    norm: LayerNorm | RMSNorm

    def run_blocks(self, x: Tensor, rotation: Rotation | None = None, cache: Cache | None = None) -> Tensor:
        """x (B, T, width) through all blocks and the last norm; extends the cache by T positions."""
        assert cache is None or isinstance(cache, KVCache)
        pasts = cache.extend(x.shape[1]) if cache is not None else [None] * len(self.blocks)
        recompute = self.gradient_checkpointing and torch.is_grad_enabled() and cache is None
        stream: Stream = x, None
        for block, past in zip(self.blocks, pasts, strict=True):
            if recompute:
                stream = checkpoint(block, *stream, rotation, use_reentrant=False)
            else:
                stream = block(*stream, rotation, past)
        return self.norm.add(*stream)[1]

    def new_cache(self, batch: int, length: int, padding: Tensor | None = None) -> KVCache:
        attention = self.blocks[0].attention
        assert isinstance(attention, Attention)
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
        )

    def init_weights(self, generator: torch.Generator) -> None:
        init_transformer(self, len(self.blocks), generator)

    def flops_per_token(self) -> float:
        matrices = sum(m.weight.numel() for m in self.blocks.modules() if isinstance(m, nn.Linear))
        matrices += self.head_weight.numel()
        return 6.0 * matrices + 12.0 * len(self.blocks) * self.embedding.embedding_dim * self.config.context
