"""Normalisation by the C++ in norm.cpp: rows of fp32 or bf16 on the CPU, computed in fp32."""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from eco.kernels import native


class _Sizes(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("eps", ctypes.c_float),
        ("centred", ctypes.c_int32),
    )


def able(x: Tensor, weight: Tensor | None, delta: Tensor | None = None) -> bool:
    """Whether the C++ does these: rows of fp32 to fp32 or bf16, or of bf16 to bf16, fp32 weights."""
    out = native.compute_dtype(x)
    return (
        (x.dtype, out) in _PAIRS
        and (weight is None or weight.dtype == torch.float32)
        and x.numel() > 0
        and (delta is None or (delta.shape == x.shape and delta.dtype == out))
        and native.usable(x, weight, delta)
    )


_PAIRS = {(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)}


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `eco.kernels.norm.rms_norm`."""
    out: Tensor = _Norm.apply(x, weight, None, eps, False)  # type: ignore[no-untyped-call]
    return out


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """See `eco.kernels.norm.layer_norm`."""
    out: Tensor = _Norm.apply(x, weight, bias, eps, True)  # type: ignore[no-untyped-call]
    return out


def add_rms_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `eco.kernels.norm.add_rms_norm`."""
    total, out = _AddNorm.apply(x, delta, weight, None, eps, False)  # type: ignore[no-untyped-call]
    return total, out


def add_unit_rms_norm(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    """See `eco.kernels.norm.add_unit_rms_norm`; both of one dtype."""
    out: Tensor = _AddUnitNorm.apply(x, delta, eps)  # type: ignore[no-untyped-call]
    return out


def add_layer_norm(x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """See `eco.kernels.norm.add_layer_norm`."""
    total, out = _AddNorm.apply(x, delta, weight, bias, eps, True)  # type: ignore[no-untyped-call]
    return total, out


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool) -> Tensor:
        x = x.contiguous()
        return _forward(ctx, None, None, x, weight, bias, _Sizes(_rows(x), x.shape[-1], eps, centred))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        dx, _, dweight, dbias = _backward(ctx, dout, None, None)
        return dx, dweight, dbias, None, None


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool
    ) -> tuple[Tensor, Tensor]:
        x, delta = x.contiguous(), delta.contiguous()
        total = torch.empty_like(x)
        sizes = _Sizes(_rows(x), x.shape[-1], eps, centred)
        return total, _forward(ctx, x, delta, total, weight, bias, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dtotal: Tensor, dout: Tensor) -> tuple[Tensor | None, ...]:
        ddelta = torch.empty_like(dout, memory_format=torch.contiguous_format)
        return *_backward(ctx, dout, dtotal.contiguous(), ddelta), None, None


class _AddUnitNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor, eps: float) -> Tensor:
        x, delta = x.contiguous(), delta.contiguous()
        out, scales = torch.empty_like(x), torch.empty(_rows(x))
        sizes = _Sizes(_rows(x), x.shape[-1], eps, False)
        native.call(f"add_unit_norm_{native.type_name(x.dtype)}", sizes, x, delta, out, scales)
        ctx.save_for_backward(out, scales)
        ctx.sizes = sizes
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, None]:
        out, scales = ctx.saved_tensors
        dout, gradient = dout.contiguous(), torch.empty_like(out)
        name = f"add_unit_norm_backward_{native.type_name(out.dtype)}"
        native.call(name, ctx.sizes, out, scales, dout, gradient)
        return gradient, gradient, None


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def _name(x: Tensor, out: Tensor) -> str:
    return f"{native.type_name(x.dtype)}_{native.type_name(out.dtype)}"


def _forward(
    ctx: Any,
    residual: Tensor | None,
    delta: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sizes: _Sizes,
) -> Tensor:
    """The norm of x, which is residual + delta, still to be computed, where these are given."""
    out = torch.empty_like(x, dtype=native.compute_dtype(x))
    means, scales = torch.empty(sizes.rows), torch.empty(sizes.rows)
    native.call(f"norm_{_name(x, out)}", sizes, residual, delta, x, weight, bias, out, means, scales)
    ctx.save_for_backward(x, weight, means, scales)
    ctx.sizes, ctx.biased = sizes, bias is not None
    return out


def _backward(
    ctx: Any, dout: Tensor, dtotal: Tensor | None, ddelta: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """The gradients of x, delta, weight and bias; `ddelta` is filled and handed on."""
    x, weight, means, scales = ctx.saved_tensors
    dout = dout.contiguous()
    dx, dweight = torch.empty_like(x), torch.empty_like(weight)
    dbias = torch.empty_like(weight) if ctx.biased else None
    gradients = (dx, ddelta, dweight, dbias)
    native.call(f"norm_backward_{_name(x, dout)}", ctx.sizes, x, weight, means, scales, dout, dtotal, *gradients)
    return gradients
