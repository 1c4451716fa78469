"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm before each sub-layer, multi-head attention, GELU.

The defaults are GPT-2 small. Without attention biases and with the exact GELU it is the decoder of the recursive-code
recipes.
"""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from eco.config import setting
from eco.models.contract import Cache, LanguageModelConfig
from eco.models.layers.attention import Attention
from eco.models.layers.cache import KVCache, Past
from eco.models.layers.fused import decode_plan, fused_step
from eco.models.layers.mlp import GeluMLP
from eco.models.layers.norm import LayerNorm
from eco.models.layers.rotary import Rotation
from eco.models.layers.shape import check_heads, check_vocabulary
from eco.models.layers.transformer import Transformer


class Config(LanguageModelConfig):
    """Sizes and choices of a GPT-2."""

    family: Literal["gpt2"] = setting("gpt2", "Architecture: GPT-2.", flat="family")
    width: int = setting(768, "Size of the residual stream.", flat="d-model", gt=0)
    layers: int = setting(12, "Number of blocks.", flat="n-layers", gt=0)
    heads: int = setting(12, "Attention heads per block; divides the width.", flat="n-heads", gt=0)
    feed_forward: int = setting(0, "Units of the feed-forward layer; 0 takes 4 x width.", flat="d-ff", ge=0)
    activation: Literal["gelu_new", "gelu"] = setting(
        "gelu_new", "GELU by its tanh approximation (gelu_new, GPT-2's own) or exact (gelu).", flat="activation"
    )
    attention_bias: bool = setting(True, "Biases in the attention projections.", flat="attention-bias")
    norm_eps: float = setting(1e-5, "Added to the variance in LayerNorm.", flat="norm-eps", gt=0)
    dropout: float = setting(0.0, "Dropout of embeddings and sub-layer outputs.", flat="dropout", ge=0, lt=1)
    attention_dropout: float = setting(0.0, "Dropout of attention probabilities.", flat="attention-dropout", ge=0, lt=1)
    tied: bool = setting(True, "The head is the embedding matrix.", flat="tie-embeddings")

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        check_heads(self.width, self.heads)
        return self


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), on the residual stream (see `layers.transformer.Stream`)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.attention_norm = LayerNorm(width, config.norm_eps)
        self.attention = Attention(width, heads, heads, bias=config.attention_bias, dropout=config.attention_dropout)
        self.mlp_norm = LayerNorm(width, config.norm_eps)
        self.mlp = GeluMLP(
            width, config.feed_forward or 4 * width, "tanh" if config.activation == "gelu_new" else "none"
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, delta: Tensor | None, rotation: Rotation | None = None, past: Past | None = None
    ) -> tuple[Tensor, Tensor]:
        x, y = self.attention_norm.add(x, delta)
        x, y = self.mlp_norm.add(x, self.dropout(self.attention(y, rotation, past)))
        return x, self.dropout(self.mlp(y))


class GPT2(Transformer):
    """tokens (B, T) int64 -> logits (B, T, V)."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        check_vocabulary(config.vocab_size)
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.position = nn.Embedding(config.context, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = LayerNorm(config.width, config.norm_eps)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)

    def hidden(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        assert cache is None or isinstance(cache, KVCache)
        x = self.embedding(tokens) + self._positions(tokens.shape[1], cache)
        return self.run_blocks(self.dropout(x), cache=cache)

    def fused_step(self) -> Callable[[Tensor, Cache], Tensor] | None:
        plan = decode_plan(self.embedding.weight, self.position.weight, self.blocks, self.norm, self.head_weight)
        return fused_step(plan, None)

    def _positions(self, count: int, cache: KVCache | None) -> Tensor:
        """The learned positions of the next `count` tokens, (T, width) or (B, T, width).

        Raises:
            ValueError: a position past the last learned one.
        """
        end = count + (cache.next_position() if cache is not None else 0)
        if end > self.config.context:
            raise ValueError(
                f"{end} tokens exceed the {self.config.context} positions this model has learned; "
                "cut the text, or train with a greater model.context"
            )
        if cache is None:
            return self.position.weight[:count]
        return F.embedding(cache.positions(count), self.position.weight)


def build(config: Config) -> GPT2:
    """The model of a config, its weights not yet drawn (see `contract.build_model`)."""
    return GPT2(config)
