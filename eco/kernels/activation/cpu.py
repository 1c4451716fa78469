"""Nonlinearities by the C++ in activation.cpp: fp32 and bf16 on the CPU, computed in fp32."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from eco.kernels import native


def able(x: Tensor) -> bool:
    """Whether the C++ does this tensor."""
    return x.dtype in (torch.float32, torch.bfloat16) and x.numel() > 0 and native.usable(x)


def swiglu(gate_up: Tensor) -> Tensor:
    """See `eco.kernels.activation.swiglu`."""
    out: Tensor = _SwiGLU.apply(gate_up)  # type: ignore[no-untyped-call]
    return out


def gelu_tanh(x: Tensor) -> Tensor:
    """See `eco.kernels.activation.gelu`, approximate="tanh"."""
    out: Tensor = _GELU.apply(x)  # type: ignore[no-untyped-call]
    return out


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        ctx.save_for_backward(gate_up)
        width = gate_up.shape[-1] // 2
        out = gate_up.new_empty(*gate_up.shape[:-1], width)
        native.call(f"swiglu_{native.type_name(out.dtype)}", out.numel() // width, width, gate_up, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        dout = dout.contiguous()
        width = dout.shape[-1]
        gradient = torch.empty_like(gate_up)
        name = f"swiglu_backward_{native.type_name(dout.dtype)}"
        native.call(name, dout.numel() // width, width, gate_up, dout, gradient)
        return gradient


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        out = torch.empty_like(x)
        native.call(f"gelu_{native.type_name(x.dtype)}", x.numel(), x, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        dout = dout.contiguous()
        gradient = torch.empty_like(x)
        native.call(f"gelu_backward_{native.type_name(x.dtype)}", x.numel(), x, dout, gradient)
        return gradient
