"""The Mamba-3 mixer by the C++ in mamba3.cpp and mamba3_backward.cpp: fp32 or bf16 on the CPU."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from eco.kernels import native
from eco.kernels.mamba3.contract import Mamba3State, Mamba3Weights

_ITEMS = 16
"""(batch, group of heads) that the backward shares out among threads; each has 2 T R N fp32 sums of its own."""


class _View(ctypes.Structure):
    """A (B, T, H, P) tensor: where it starts, and the strides of all but its last dimension, in elements."""

    _fields_ = (("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("batch", "time", "head")))


def _pointers(*names: str) -> tuple[tuple[str, type], ...]:
    return tuple((name, ctypes.c_void_p) for name in names)


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("B", "T", "H", "P", "N", "R", "A", "chunk")),
        *(("x", _View), ("gate", _View)),
        *_pointers("key", "query", "log_decay", "gain", "previous_gain", "cos", "sin"),
        *_pointers(*Mamba3Weights._fields, "start", "reset"),
    )


class _State(ctypes.Structure):
    _fields_ = _pointers(*Mamba3State._fields)


class _Gradients(ctypes.Structure):
    _fields_ = (
        ("dy", _View),
        *_pointers("last_memory", "last_key", "last_value"),
        *(("groups", ctypes.c_int64), ("x", _View), ("gate", _View)),
        *_pointers("key", "query", "log_decay", "gain", "previous_gain", "cos", "sin", *Mamba3Weights._fields, "start"),
    )


def able(x: Tensor, gate: Tensor, key: Tensor, query: Tensor, weights: Mamba3Weights) -> bool:
    """Whether the C++ does these: inputs of fp32 or bf16, computed in one of them, and fp32 weights."""
    return (
        native.compute_dtype(x) in _FLOATS
        and all(part.dtype in _FLOATS for part in (x, gate, key, query))
        and all(weight.dtype == torch.float32 for weight in weights)
        and x.numel() > 0
        and native.usable(x, key, weights.skip)
    )


_FLOATS = (torch.float32, torch.bfloat16)


def mamba3_mix(
    x: Tensor,
    gate: Tensor,
    key: Tensor,
    query: Tensor,
    log_decay: Tensor,
    gain: Tensor,
    previous_gain: Tensor,
    rotation: tuple[Tensor, Tensor] | None,
    weights: Mamba3Weights,
    *,
    chunk: int,
    reset: Tensor | None = None,
    state: Mamba3State | None = None,
) -> tuple[Tensor, Mamba3State]:
    """See `eco.kernels.mamba3.mamba3_mix`."""
    dtype = native.compute_dtype(x)
    with torch.autocast("cpu", enabled=False):
        rows = (part.to(dtype) for part in (x, gate, key, query))
        start = None
        if state is not None:
            start = state.memory + state.key.mT @ (state.value * previous_gain[:, 0, :, None, None])
        numbers = (log_decay, gain, previous_gain, *(rotation or (None, None)), *weights, start)
        y, *last = _Mix.apply(*rows, *numbers, reset, min(chunk, x.shape[1]))  # type: ignore[no-untyped-call]
    return y, Mamba3State(*last)


class _Mix(torch.autograd.Function):
    """Its tensors, here and in the backward, are those of `_Problem` from x on."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        *tensors, chunk = inputs
        x, gate, *others = tensors
        x, gate = _rows_contiguous(x), _rows_contiguous(gate)
        tensors = [x, gate, *(None if part is None else part.contiguous() for part in others)]
        batch, _, heads, channels = x.shape
        _, _, rank, entries = others[0].shape
        y = x.new_empty(x.shape)
        shapes = (entries, channels), (rank, entries), (rank, channels)
        last = [torch.empty(batch, heads, *shape) for shape in shapes]
        state = _State(*map(_pointer, last))
        native.call(f"mamba3_forward_{native.type_name(x.dtype)}", _problem(tensors, chunk), _view(y), state)
        ctx.save_for_backward(*tensors)
        ctx.chunk = chunk
        ctx.set_materialize_grads(False)
        return y, *last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, *dlast: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        x, _, key, _, log_decay, _, _, cos, *_, start, _ = tensors
        batch, _, heads, channels = x.shape
        groups = min(heads, -(-_ITEMS // batch))
        dy = torch.zeros(x.shape, dtype=x.dtype) if dy is None else _rows_contiguous(dy)
        dlast = tuple(None if part is None else part.contiguous() for part in dlast)
        dx, dgate = x.new_empty(x.shape), x.new_empty(x.shape)
        shared = [torch.empty(batch, groups, *key.shape[1:]) for _ in range(2)]
        numbers = [torch.zeros(log_decay.shape) for _ in range(3)]
        angles = [None if cos is None else torch.empty(cos.shape) for _ in range(2)]
        weights = [torch.zeros(batch, *weight.shape) for weight in tensors[9:14]]
        skip = torch.zeros(batch, heads, channels)
        dstart = None if start is None else torch.empty(start.shape)
        found = (*shared, *numbers, *angles, *weights, skip, dstart)
        gradients = _Gradients(_view(dy), *map(_pointer, dlast), groups, _view(dx), _view(dgate), *map(_pointer, found))
        native.call(f"mamba3_backward_{native.type_name(x.dtype)}", _problem(tensors, ctx.chunk), gradients)
        dshared = [part.sum(1).to(x.dtype) for part in shared]
        dweights = [part.sum(0) for part in weights]
        return dx, dgate, *dshared, *numbers, *angles, *dweights, skip.sum((0, 2)), dstart, None, None


def _problem(tensors: Sequence[Tensor | None], chunk: int) -> _Problem:
    """It points to the tensors: they must stay referenced while it is used."""
    x, gate, key, *_ = tensors
    assert x is not None and gate is not None and key is not None
    cos = tensors[7]
    batch, time, heads, channels = x.shape
    _, _, rank, entries = key.shape
    pairs = 0 if cos is None else cos.shape[-1]
    sizes = (batch, time, heads, channels, entries, rank, pairs, chunk)
    return _Problem(*sizes, _view(x), _view(gate), *map(_pointer, tensors[2:]))


def _view(x: Tensor) -> _View:
    return _View(x.data_ptr(), *x.stride()[:3])


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _rows_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
