"""Calls the fused C++ decode step: the plan and the step as C structures that point into tensors."""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from eco.kernels.decode.plan import Layer, Linear, Norm, Plan
from eco.kernels.native import call

_int, _pointer = ctypes.c_int64, ctypes.c_void_p
_ACTIVATIONS = ("swiglu", "gelu", "gelu_tanh")


class _Norm(ctypes.Structure):
    _fields_ = (("weight", _pointer), ("bias", _pointer), ("eps", ctypes.c_double))


class _Linear(ctypes.Structure):
    _fields_ = (("weight", _pointer), ("bias", _pointer), ("rows", _int), ("columns", _int))


class _Layer(ctypes.Structure):
    _fields_ = (
        ("attention_norm", _Norm),
        ("qkv", _Linear),
        ("query_norm", _Norm),
        ("key_norm", _Norm),
        ("output", _Linear),
        ("mlp_norm", _Norm),
        ("up", _Linear),
        ("down", _Linear),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        *((name, _int) for name in ("layer_count", "width", "heads", "kv_heads", "head_size", "activation")),
        ("embedding", _pointer),
        ("positions", _pointer),
        ("norm", _Norm),
        ("head", _Linear),
    )


class _Store(ctypes.Structure):
    _fields_ = (
        ("keys", _pointer),
        ("values", _pointer),
        *((name, _int) for name in ("layer_stride", "row_stride", "head_stride", "position_stride")),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        ("rows", _int),
        ("threads", _int),
        *((name, _pointer) for name in ("tokens", "padding", "cos", "sin")),
        ("own", _Store),
        ("slot", _pointer),
        ("prefix", _Store),
        ("source", _pointer),
        ("shared", _int),
        ("length", _int),
        ("logits", _pointer),
        ("scratch", _pointer),
    )


@dataclass(frozen=True)
class Store:
    """keys, values: fp32 (layers, N, kv_heads, positions, head_size). rows: (B,) int64, which of the N a row of the
    batch reads; None: the N are the batch."""

    keys: Tensor
    values: Tensor
    rows: Tensor | None = None


class FusedDecoder:
    """One token through all layers of a plan, in fp32 on the CPU."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan  # keeps alive what the structures point to
        self._layers = (_Layer * len(plan.layers))(*map(_layer, plan.layers))
        self._model = _Model(
            layers=self._layers,
            layer_count=len(plan.layers),
            width=plan.embedding.shape[1],
            heads=plan.heads,
            kv_heads=plan.kv_heads,
            head_size=plan.layers[0].output.weight.shape[1] // plan.heads,
            activation=_ACTIVATIONS.index(plan.activation),
            embedding=plan.embedding.data_ptr(),
            positions=_address(plan.positions),
            norm=_norm(plan.norm),
            head=_linear(Linear(plan.head, None)),
        )

    def step(
        self,
        tokens: Tensor,
        own: Store,
        length: int,
        prefix: Store | None = None,
        padding: Tensor | None = None,
        rotation: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Logits (B, V) after one further token of each row; writes its keys and values at position `length`.

        tokens: (B,) int64. prefix: the first positions, all of its own filled; `own` the following ones up to `length`
        and room for the next. padding: (B,) int64, how many first positions of a row are padding. rotation: cos and
        sin, (head_size / 2) fp32 each, of position `length`.
        """
        rows, threads = len(tokens), torch.get_num_threads()
        tokens = tokens.contiguous()
        shared = 0 if prefix is None else prefix.keys.shape[3]
        assert shared <= length < shared + own.keys.shape[3]
        furthest = length - (0 if padding is None else int(padding.min()))
        assert self._plan.positions is None or furthest < len(self._plan.positions)
        assert padding is None or padding.is_contiguous()
        logits = torch.empty(rows, self._model.head.rows)
        scratch = torch.empty(self._scratch_size(rows, threads, length))
        step = _Step(
            rows=rows,
            threads=threads,
            tokens=tokens.data_ptr(),
            padding=_address(padding),
            cos=_address(rotation[0] if rotation else None),
            sin=_address(rotation[1] if rotation else None),
            own=_store(own),
            slot=_address(own.rows),
            prefix=_store(prefix) if prefix else _Store(),
            source=_address(prefix.rows) if prefix else None,
            shared=shared,
            length=length,
            logits=logits.data_ptr(),
            scratch=scratch.data_ptr(),
        )
        call("decode_step", self._model, step)
        return logits

    def _scratch_size(self, rows: int, threads: int, length: int) -> int:
        """Numbers of scratch memory, as the C++ lays them out: shared ones of all rows, then each thread's own."""
        model, layer = self._model, self._layers[0]
        shared = model.width + layer.qkv.rows + layer.output.columns + layer.up.rows + layer.down.columns
        own = rows * model.width + 2 * model.head_size + length + 1
        return int(rows * shared + threads * own)


def _store(store: Store) -> _Store:
    keys, values = store.keys, store.values
    assert keys.stride() == values.stride() and keys.stride(4) == 1
    assert keys.dtype == values.dtype == torch.float32
    assert store.rows is None or store.rows.is_contiguous()
    return _Store(keys.data_ptr(), values.data_ptr(), *keys.stride()[:4])


def _layer(layer: Layer) -> _Layer:
    return _Layer(
        attention_norm=_norm(layer.attention_norm),
        qkv=_linear(layer.qkv),
        query_norm=_norm(layer.query_norm),
        key_norm=_norm(layer.key_norm),
        output=_linear(layer.output),
        mlp_norm=_norm(layer.mlp_norm),
        up=_linear(layer.up),
        down=_linear(layer.down),
    )


def _norm(norm: Norm | None) -> _Norm:
    return _Norm(norm.weight.data_ptr(), _address(norm.bias), norm.eps) if norm else _Norm()


def _linear(linear: Linear) -> _Linear:
    assert linear.weight.is_contiguous() and linear.weight.dtype == torch.float32
    return _Linear(linear.weight.data_ptr(), _address(linear.bias), *linear.weight.shape)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
