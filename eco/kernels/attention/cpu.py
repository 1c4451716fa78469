"""Attention by the C++ in attention.cpp: bf16 on the CPU."""

import ctypes
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from eco.kernels import native
from eco.kernels.attention.eager import heads_of

Rotation = tuple[Tensor, Tensor]


class _Heads(ctypes.Structure):
    """A (B, H, T, D) tensor: where it starts, and the strides of all but its last dimension, in elements."""

    _fields_ = (("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("batch", "head", "time")))


class _Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("B", "H", "Hkv", "T", "D")),
        ("scale", ctypes.c_float),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
        ("causal", ctypes.c_int64),
    )


def able(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> bool:
    """Whether the C++ does these: bf16, a head size that is a multiple of 32, as many queries as keys, no dropout."""
    return (
        q.dtype == k.dtype == v.dtype == torch.bfloat16
        and q.shape[-1] % 32 == 0
        and q.shape[2] == k.shape[2]
        and q.numel() > 0
        and dropout == 0
        and native.usable(q, k, v)
    )


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """See `eco.kernels.attention.causal_attention`."""
    out: Tensor = _CausalAttention.apply(q, k, v)  # type: ignore[no-untyped-call]
    return out


def packed_attention(qkv: Tensor, heads: int, kv_heads: int, rotation: Rotation | None, causal: bool) -> Tensor:
    """See `eco.kernels.attention.packed_attention`."""
    cos, sin = (None, None) if rotation is None else (angle.contiguous() for angle in rotation)
    out: Tensor = _PackedAttention.apply(qkv, heads, kv_heads, cos, sin, causal)  # type: ignore[no-untyped-call]
    return out


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = _rows_contiguous(q), _rows_contiguous(k), _rows_contiguous(v)
        out, log_sums = _forward(_shape(q, k, None, None, True), q, k, v)
        ctx.save_for_backward(q, k, v, out, log_sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, out, log_sums = ctx.saved_tensors
        gradients = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        _backward(_shape(q, k, None, None, True), q, k, v, out, _rows_contiguous(dout), log_sums, gradients)
        return gradients


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, heads: int, kv_heads: int, cos: Tensor | None, sin: Tensor | None, causal: bool
    ) -> Tensor:
        qkv = _rows_contiguous(qkv)
        q, k, v = heads_of(qkv, heads, kv_heads)
        out, log_sums = _forward(_shape(q, k, cos, sin, causal), q, k, v)
        ctx.save_for_backward(qkv, out, log_sums, cos, sin)
        ctx.heads, ctx.kv_heads, ctx.causal = heads, kv_heads, causal
        return out.transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dmerged: Tensor) -> tuple[Tensor | None, ...]:
        qkv, out, log_sums, cos, sin = ctx.saved_tensors
        dout = _rows_contiguous(dmerged).view(out.transpose(1, 2).shape).transpose(1, 2)
        dqkv = torch.empty_like(qkv)
        q, k, v = heads_of(qkv, ctx.heads, ctx.kv_heads)
        gradients = heads_of(dqkv, ctx.heads, ctx.kv_heads)
        _backward(_shape(q, k, cos, sin, ctx.causal), q, k, v, out, dout, log_sums, gradients)
        return dqkv, None, None, None, None, None


def _forward(shape: _Shape, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The result (B, H, T, D), laid out as (B, T, H, D), and each row's log of the sum of exponents (B, H, T)."""
    batch, heads, time, size = q.shape
    out = torch.empty(batch, time, heads, size, dtype=q.dtype).transpose(1, 2)
    log_sums = torch.empty(batch, heads, time)
    native.call("attention_forward", shape, *map(_heads, (q, k, v, out)), log_sums)
    return out, log_sums


def _backward(
    shape: _Shape,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    dout: Tensor,
    log_sums: Tensor,
    gradients: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Fills the `gradients` of q, k and v."""
    inputs = map(_heads, (q, k, v, out, dout))
    native.call("attention_backward", shape, *inputs, log_sums, *map(_heads, gradients))


def _shape(q: Tensor, k: Tensor, cos: Tensor | None, sin: Tensor | None, causal: bool) -> _Shape:
    """It points to the angles: they must stay referenced while it is used."""
    angles = (None if angle is None else angle.data_ptr() for angle in (cos, sin))
    batch, heads, time, size = q.shape
    return _Shape(batch, heads, k.shape[1], time, size, 1 / math.sqrt(size), *angles, causal)


def _heads(x: Tensor) -> _Heads:
    return _Heads(x.data_ptr(), *x.stride()[:3])


def _rows_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
