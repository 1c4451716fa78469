"""Where the weights of a transformer lie, in the terms of the fused decode step.

A plan holds the model's own tensors, not copies: it stays right while they are trained in place.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Activation = Literal["swiglu", "gelu", "gelu_tanh"]


@dataclass(frozen=True)
class Norm:
    """LayerNorm where there is a bias, else RMSNorm; weight and bias (size,)."""

    weight: Tensor
    bias: Tensor | None
    eps: float


@dataclass(frozen=True)
class Linear:
    """y = weight x + bias: weight (rows, columns), bias (rows,)."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Layer:
    """x + output(attention(qkv(norm(x)))), then x + down(activation(up(norm(x)))).

    qkv yields the query heads, then the key heads, then the value heads; for SwiGLU, up yields the gate's units, then
    the others.
    """

    attention_norm: Norm
    qkv: Linear
    query_norm: Norm | None
    key_norm: Norm | None
    output: Linear
    mlp_norm: Norm
    up: Linear
    down: Linear


@dataclass(frozen=True)
class Plan:
    """A whole model. embedding: (V, width); positions: (P, width) where positions are learned; head: (V, width)."""

    embedding: Tensor
    positions: Tensor | None
    layers: tuple[Layer, ...]
    norm: Norm
    head: Tensor
    heads: int
    kv_heads: int
    activation: Activation
