"""Describes a transformer to the fused decode step (`eco.kernels.decode`) and runs it on the KV cache."""

from collections.abc import Callable

from torch import Tensor, nn

from eco.kernels.decode import Store, fused_decoder
from eco.kernels.decode.plan import Activation, Layer, Linear, Norm, Plan
from eco.models.contract import Cache
from eco.models.layers.attention import Attention
from eco.models.layers.cache import KVCache
from eco.models.layers.linear import StackedLinear
from eco.models.layers.mlp import GeluMLP, SwiGLU
from eco.models.layers.norm import LayerNorm, RMSNorm
from eco.models.layers.rotary import Rotary


def fused_step(plan: Plan, rotary: Rotary | None) -> Callable[[Tensor, Cache], Tensor] | None:
    """See `eco.models.contract.LanguageModel.fused_step`. rotary: the angles of a model that rotates its heads."""
    decoder = fused_decoder(plan)
    if decoder is None:
        return None

    def step(tokens: Tensor, cache: Cache) -> Tensor:
        assert isinstance(cache, KVCache)
        rotation = rotary(cache.length, 1) if rotary is not None else None
        own = Store(cache.keys, cache.values, cache.slot)
        logits = decoder.step(tokens, own, cache.length, cache.prefix, cache.padding, rotation)
        cache.length += 1
        return logits

    return step


def decode_plan(
    embedding: Tensor, positions: Tensor | None, blocks: nn.ModuleList, norm: nn.Module, head: Tensor
) -> Plan:
    """The plan of a model whose blocks have `attention_norm`, `attention`, `mlp_norm` and `mlp`."""
    layers = tuple(_layer(block) for block in blocks)
    attention, mlp = blocks[0].attention, blocks[0].mlp
    assert isinstance(attention, Attention) and isinstance(mlp, SwiGLU | GeluMLP)
    return Plan(
        embedding=embedding,
        positions=positions,
        layers=layers,
        norm=_norm(norm),
        head=head,
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        activation=_activation(mlp),
    )


def _layer(block: nn.Module) -> Layer:
    attention, mlp = block.attention, block.mlp
    assert isinstance(attention, Attention) and isinstance(mlp, SwiGLU | GeluMLP)
    return Layer(
        attention_norm=_norm(block.attention_norm),
        qkv=_linear(attention.qkv),
        query_norm=_norm(attention.query_norm) if attention.query_norm is not None else None,
        key_norm=_norm(attention.key_norm) if attention.key_norm is not None else None,
        output=_linear(attention.output),
        mlp_norm=_norm(block.mlp_norm),
        up=_linear(mlp.gate_up if isinstance(mlp, SwiGLU) else mlp.up),
        down=_linear(mlp.down),
    )


def _norm(norm: object) -> Norm:
    assert isinstance(norm, LayerNorm | RMSNorm)
    return Norm(norm.weight, norm.bias if isinstance(norm, LayerNorm) else None, norm.eps)


def _activation(mlp: SwiGLU | GeluMLP) -> Activation:
    if isinstance(mlp, SwiGLU):
        return "swiglu"
    return "gelu_tanh" if mlp.approximate == "tanh" else "gelu"


def _linear(linear: nn.Linear) -> Linear:
    # A module that adds something to the product has no place in a plan.
    assert type(linear) in (nn.Linear, StackedLinear)
    return Linear(linear.weight, linear.bias)
