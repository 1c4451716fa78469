"""Attention by the C++ in attention.cpp: bf16 on the CPU."""

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from eco.kernels import native
from eco.kernels.attention.eager import Extra, heads_of

Rotation = tuple[Tensor, Tensor]


class _Heads(ctypes.Structure):
    """A (B, H, T, D) tensor: where it starts, and the strides of all but its last dimension, in elements."""

    _fields_ = (("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("batch", "head", "time")))


class _Sides(ctypes.Structure):
    """Queries or keys, and their further numbers: no address where there are none."""

    _fields_ = (("main", _Heads), ("extra", _Heads))


class _Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("B", "H", "Hkv", "T", "D", "E")),
        ("scale", ctypes.c_float),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
        ("causal", ctypes.c_int64),
    )


def able(q: Tensor, k: Tensor, v: Tensor, dropout: float, extra: Extra | None) -> bool:
    """Whether the C++ does these: bf16, a head size that is a multiple of 32, as many queries as keys, no dropout."""
    return (
        q.dtype == k.dtype == v.dtype == torch.bfloat16
        and all(x.dtype == torch.float32 for x in extra or ())
        and q.shape[-1] % 32 == 0
        and q.shape[2] == k.shape[2]
        and q.numel() > 0
        and dropout == 0
        and native.usable(q, k, v, *(extra or ()))
    )


def causal_attention(q: Tensor, k: Tensor, v: Tensor, extra: Extra | None) -> Tensor:
    """See `eco.kernels.attention.causal_attention`."""
    out: Tensor = _CausalAttention.apply(q, k, v, *(extra or (None, None)))  # type: ignore[no-untyped-call]
    return out


def packed_attention(
    qkv: Tensor, heads: int, kv_heads: int, rotation: Rotation | None, causal: bool, extra: Extra | None
) -> Tensor:
    """See `eco.kernels.attention.packed_attention`."""
    cos, sin = (None, None) if rotation is None else (angle.contiguous() for angle in rotation)
    more = extra or (None, None)
    out: Tensor = _PackedAttention.apply(qkv, heads, kv_heads, cos, sin, causal, *more)  # type: ignore[no-untyped-call]
    return out


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, q_extra: Tensor | None, k_extra: Tensor | None) -> Tensor:
        inputs = tuple(map(_rows_contiguous, (q, k, v, q_extra, k_extra)))
        out, log_sums = _forward(_shape(inputs, None, None, True), inputs)
        ctx.save_for_backward(*inputs, out, log_sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, out, log_sums = ctx.saved_tensors
        gradients = tuple(map(_empty_like, inputs))
        _backward(_shape(inputs, None, None, True), inputs, out, _rows_contiguous(dout), log_sums, gradients)
        return gradients


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        heads: int,
        kv_heads: int,
        cos: Tensor | None,
        sin: Tensor | None,
        causal: bool,
        q_extra: Tensor | None,
        k_extra: Tensor | None,
    ) -> Tensor:
        qkv, q_extra, k_extra = map(_rows_contiguous, (qkv, q_extra, k_extra))
        inputs = (*heads_of(qkv, heads, kv_heads), q_extra, k_extra)
        out, log_sums = _forward(_shape(inputs, cos, sin, causal), inputs)
        ctx.save_for_backward(qkv, q_extra, k_extra, out, log_sums, cos, sin)
        ctx.heads, ctx.kv_heads, ctx.causal = heads, kv_heads, causal
        return out.transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dmerged: Tensor) -> tuple[Tensor | None, ...]:
        qkv, q_extra, k_extra, out, log_sums, cos, sin = ctx.saved_tensors
        dout = _rows_contiguous(dmerged).view(out.transpose(1, 2).shape).transpose(1, 2)
        dqkv, *dextra = map(_empty_like, (qkv, q_extra, k_extra))
        inputs = (*heads_of(qkv, ctx.heads, ctx.kv_heads), q_extra, k_extra)
        gradients = (*heads_of(dqkv, ctx.heads, ctx.kv_heads), *dextra)
        _backward(_shape(inputs, cos, sin, ctx.causal), inputs, out, dout, log_sums, gradients)
        return dqkv, None, None, None, None, None, *dextra


Inputs = Sequence[Any]
"""Five: q, k and v, each (B, H or Hkv, T, D), and the `Extra` of q and k or twice None."""


def _forward(shape: _Shape, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The result (B, H, T, D), laid out as (B, T, H, D), and each row's log of the sum of exponents (B, H, T)."""
    batch, heads, time, size = inputs[0].shape
    out = torch.empty(batch, time, heads, size, dtype=torch.bfloat16).transpose(1, 2)
    log_sums = torch.empty(batch, heads, time)
    native.call("attention_forward", shape, *_arguments(inputs), _heads(out), log_sums)
    return out, log_sums


def _backward(shape: _Shape, inputs: Inputs, out: Tensor, dout: Tensor, log_sums: Tensor, gradients: Inputs) -> None:
    """Fills the `gradients` of all inputs."""
    outputs = _heads(out), _heads(dout), log_sums
    native.call("attention_backward", shape, *_arguments(inputs), *outputs, *_arguments(gradients))


def _shape(inputs: Inputs, cos: Tensor | None, sin: Tensor | None, causal: bool) -> _Shape:
    """It points to the angles: they must stay referenced while it is used."""
    q, k, _, q_extra, _ = inputs
    angles = (None if angle is None else angle.data_ptr() for angle in (cos, sin))
    batch, heads, time, size = q.shape
    further = 0 if q_extra is None else q_extra.shape[-1]
    return _Shape(batch, heads, k.shape[1], time, size, further, 1 / math.sqrt(size), *angles, causal)


def _arguments(inputs: Inputs) -> tuple[_Sides, _Sides, _Heads]:
    q, k, v, q_extra, k_extra = inputs
    return _sides(q, q_extra), _sides(k, k_extra), _heads(v)


def _sides(x: Tensor, extra: Tensor | None) -> _Sides:
    return _Sides(_heads(x), _Heads() if extra is None else _heads(extra.transpose(1, 2)))


def _heads(x: Tensor) -> _Heads:
    return _Heads(x.data_ptr(), *x.stride()[:3])


def _rows_contiguous(x: Any) -> Any:
    return x if x is None or x.stride(-1) == 1 else x.contiguous()


def _empty_like(x: Any) -> Any:
    return None if x is None else torch.empty_like(x)
