"""A modern decoder, as in Llama (arXiv 2302.13971, 2307.09288): RMSNorm, rotary positions, grouped queries, SwiGLU.

Biases and QK-norm are options; with QK-norm and without MLP biases it is Qwen3's block (arXiv 2505.09388).
"""

from collections.abc import Callable, Sequence
from typing import Literal, cast

from pydantic import model_validator
from torch import Tensor, nn

from eco.config import setting
from eco.models.contract import Cache
from eco.models.instant import InstantConfig, InstantModel
from eco.models.instant.model import contractions_of
from eco.models.instant.replay import SubLayer
from eco.models.layers.attention import Attention
from eco.models.layers.cache import Past
from eco.models.layers.fused import decode_plan, fused_step
from eco.models.layers.mlp import SwiGLU
from eco.models.layers.norm import RMSNorm
from eco.models.layers.rotary import Rotary, Rotation
from eco.models.layers.shape import check_heads, check_kv_heads, check_rotary, check_vocabulary, swiglu_size
from eco.models.layers.transformer import Transformer


class Config(InstantConfig):
    """Sizes and choices of a decoder."""

    family: Literal["decoder"] = setting("decoder", "Architecture: modern decoder.", flat="family")
    width: int = setting(384, "Size of the residual stream.", flat="d-model", gt=0)
    layers: int = setting(6, "Number of blocks.", flat="n-layers", gt=0)
    heads: int = setting(6, "Query heads per block; divides the width.", flat="n-heads", gt=0)
    kv_heads: int = setting(0, "Key and value heads, a divisor of heads; 0 takes heads.", flat="n-kv-heads", ge=0)
    feed_forward: int = setting(
        0, "Units of SwiGLU; 0 takes 8/3 x width, rounded up to a multiple of 64.", flat="d-ff", ge=0
    )
    rope_base: float = setting(10_000.0, "Base of the rotary wavelengths.", flat="rope-base", gt=1)
    norm_eps: float = setting(1e-5, "Added to the mean square in RMSNorm.", flat="norm-eps", gt=0)
    attention_bias: bool = setting(False, "Biases in the attention projections.", flat="attention-bias")
    mlp_bias: bool = setting(False, "Biases in the feed-forward projections.", flat="mlp-bias")
    qk_norm: bool = setting(False, "RMSNorm on each query and key head before the rotation.", flat="qk-norm")
    dropout: float = setting(0.0, "Dropout of embeddings and sub-layer outputs.", flat="dropout", ge=0, lt=1)
    attention_dropout: float = setting(0.0, "Dropout of attention probabilities.", flat="attention-dropout", ge=0, lt=1)
    tied: bool = setting(True, "The head is the embedding matrix.", flat="tie-embeddings")

    @property
    def attention_blocks(self) -> list[bool]:
        return [True] * self.layers

    @property
    def resolved_kv_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def resolved_feed_forward(self) -> int:
        return self.feed_forward or swiglu_size(self.width)

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        check_heads(self.width, self.heads)
        check_kv_heads(self.heads, self.resolved_kv_heads)
        check_rotary(self.width, self.heads)
        return self


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), on the residual stream (see `layers.transformer.Stream`)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.attention_norm = RMSNorm(width, config.norm_eps)
        self.attention = Attention(
            width,
            config.heads,
            config.resolved_kv_heads,
            bias=config.attention_bias,
            dropout=config.attention_dropout,
            qk_norm_eps=config.norm_eps if config.qk_norm else None,
        )
        self.mlp_norm = RMSNorm(width, config.norm_eps)
        self.mlp = SwiGLU(width, config.resolved_feed_forward, bias=config.mlp_bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, delta: Tensor | None, rotation: Rotation | None = None, past: Past | None = None
    ) -> tuple[Tensor, Tensor]:
        x, y = self.attention_norm.add(x, delta)
        x, y = self.mlp_norm.add(x, self.dropout(self.attention(y, rotation, past)))
        return x, self.dropout(self.mlp(y))

    def sublayers(self, rotation: Rotation | None, past: Past | None) -> tuple[SubLayer, SubLayer]:
        def attend(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            return self.dropout(self.attention(self.attention_norm(x), rotation, past)), ()

        def feed(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            return self.dropout(self.mlp(self.mlp_norm(x))), ()

        return SubLayer.of(attend, self.attention_norm, self.attention), SubLayer.of(feed, self.mlp_norm, self.mlp)


class Decoder(InstantModel, Transformer):
    """tokens (B, T) int64 -> logits (B, T, V)."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        check_vocabulary(config.vocab_size)
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.rotary = Rotary(config.width // config.heads, config.context, config.rope_base)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        self.contractions = contractions_of(config)

    def hidden(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        # Left padding shifts the angles of a row's queries and keys alike, and only their difference counts.
        rotation = self.rotary(cache.length if cache is not None else 0, tokens.shape[1])
        x, keep = self.dropout(self.embedding(tokens)), self.starts(tokens, cache, *rotation)
        if self.instant is None or not self.instant.runs(keep):
            return self.run_blocks(x, rotation, cache)
        x1, x2, _ = self.instant.run(self.sublayers(rotation, self.pasts(cache, x.shape[1])), x, keep)
        return self.norm.add(x1, x2)[1]

    def sublayers(
        self, rotation: Rotation, pasts: Sequence[Past | None] | None = None
    ) -> list[tuple[SubLayer, SubLayer]]:
        pairs = zip(self.blocks, pasts or [None] * len(self.blocks), strict=True)
        return [cast(Block, block).sublayers(rotation, past) for block, past in pairs]

    def fused_step(self) -> Callable[[Tensor, Cache], Tensor] | None:
        if self.instant is not None and self.instant.runs(keep=False):
            return None
        plan = decode_plan(self.embedding.weight, None, self.blocks, self.norm, self.head_weight)
        return fused_step(plan, self.rotary)


def build(config: Config) -> Decoder:
    """The model of a config, its weights not yet drawn (see `contract.build_model`)."""
    return Decoder(config)
