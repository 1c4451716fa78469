"""Nested state taken apart into tensors and JSON, and put together again: a checkpoint's answer to pickle."""

import math
from typing import Any

import torch
from torch import Tensor

TENSOR, ITEMS, TUPLE, FLOAT = "$tensor", "$items", "$tuple", "$float"
"""Marks of what JSON has no word for: a tensor's name, a dict with keys that are no plain strings, a tuple, NaN."""


def split(value: Any) -> tuple[Any, dict[str, Tensor]]:
    """Strict JSON for `value` and its tensors under names that tell where they were (`state.0.exp_avg`).

    value: dicts (keys: strings, whole numbers, booleans, None or tuples of these), lists, tuples, tensors, numbers,
        strings, booleans and None. A tensor that occurs twice (a tied weight) is named once.

    Raises:
        ValueError: anything else is in there; the message says where.
    """
    splitter = _Splitter()
    return splitter.encode(value, ""), splitter.tensors


def join(structure: Any, tensors: dict[str, Tensor]) -> Any:
    """What `split` was given. Numbers keep their type and every bit; a tied tensor is one object in all its places.

    Raises:
        ValueError: a tensor is missing.
    """
    if isinstance(structure, list):
        return [join(item, tensors) for item in structure]
    if not isinstance(structure, dict):
        return structure
    if TENSOR in structure:
        if structure[TENSOR] not in tensors:
            raise ValueError(f"tensor {structure[TENSOR]!r} is missing")
        return tensors[structure[TENSOR]]
    if ITEMS in structure:
        return {join(key, tensors): join(item, tensors) for key, item in structure[ITEMS]}
    if TUPLE in structure:
        return tuple(join(item, tensors) for item in structure[TUPLE])
    if FLOAT in structure:
        return float(structure[FLOAT])
    return {key: join(item, tensors) for key, item in structure.items()}


class _Splitter:
    """One walk through one value."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple[object, ...], str] = {}

    def encode(self, value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            return {TENSOR: self._name(value.detach(), path)}
        if isinstance(value, dict):
            return self._encode_dict(value, path)
        if isinstance(value, list | tuple):
            items = [self.encode(item, _below(path, index)) for index, item in enumerate(value)]
            return items if isinstance(value, list) else {TUPLE: items}
        if isinstance(value, float) and not math.isfinite(value):
            return {FLOAT: str(value)}
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise ValueError(f"state {path or 'itself'!r} is a {type(value).__name__}, which a checkpoint does not store")

    def _encode_dict(self, value: dict[Any, Any], path: str) -> Any:
        encoded = [(key, self.encode(item, _below(path, key))) for key, item in value.items()]
        if all(type(key) is str and not key.startswith("$") for key in value):
            return dict(encoded)
        return {ITEMS: [[self.encode(key, path), item] for key, item in encoded]}

    def _name(self, tensor: Tensor, path: str) -> str:
        """The name of this very memory, if it was met before; else a new one."""
        memory = (tensor.data_ptr(), tensor.dtype, tensor.device, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and memory in self._names:
            return self._names[memory]
        name = path or "value"
        while name in self.tensors:  # keys such as 0 and "0", or "a.b" and a -> b, lead to one path
            name += "'"
        self.tensors[name] = tensor
        self._names[memory] = name
        return name


def _below(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values, contiguous, no two sharing memory, as the safetensors writer wants it; copies where it must."""
    storages: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        own = tensor.contiguous()
        pointer = own.untyped_storage().data_ptr()
        if pointer in storages:
            own = torch.clone(own, memory_format=torch.contiguous_format)
        storages.add(own.untyped_storage().data_ptr())
        result[name] = own
    return result
