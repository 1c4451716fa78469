"""What autograd saves in one forward pass of a block: told apart, packed, and given back."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from eco.models.instant.quantise import Packed
from eco.models.instant.slot import Slot
from eco.models.instant.storages import Memory, Storages, address, whole

_LEAST_BYTES = 64 * 1024
_STATISTICS = 16
"""Tensors with less than a 16th of the numbers of the largest are statistics of rows."""
_NARROW = 64
"""An fp32 tensor with shorter rows holds angles or decays, summed over time: 5 % of such a sum is no small error."""
_WIDEST_ROW, _FEWEST_ROWS = 8192, 128
"""Of a matrix whose rows have directions; what looks wider or flatter has whole sequences as its rows."""
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_CAST = "ToCopyBackward0"
_VIEWS = {
    f"{name}Backward0"
    for name in ("T", "View", "ReshapeAlias", "Transpose", "Permute", "Slice", "Select", "Unsqueeze", "Squeeze")
}


class Totals:
    """What the forward passes of a step saved."""

    def __init__(self) -> None:
        self.seen = 0
        """Bytes that autograd would have kept, each storage once, without what is kept anyway, such as parameters."""
        self.kept = 0
        self.packed: list[tuple[Slot, int, int, Tensor]] = []
        """Of each compressed tensor its bytes before, the bits of a number, and its relative error, a scalar."""

    def count(self, seen: int, kept: int) -> None:
        self.seen += seen
        self.kept += kept


class Kept(Protocol):
    """A storage as it is kept."""

    def read(self) -> Tensor:
        """The whole storage, flat."""


@dataclass(frozen=True)
class _Same:
    """As it was; `version` counts the writes to it."""

    x: Tensor
    version: int

    def read(self) -> Tensor:
        if self.x._version != self.version:
            raise RuntimeError("a tensor that the backward pass needs was written to after the forward pass")
        return self.x


@dataclass(frozen=True)
class _Cast:
    """A parameter in another dtype, to be made again."""

    parameter: _Same
    dtype: torch.dtype

    def read(self) -> Tensor:
        return self.parameter.read().to(self.dtype).flatten()


class _Entry:
    """One storage, and the tensor that was last read from it, as long as anybody needs that."""

    def __init__(self, x: Tensor, kept: Kept) -> None:
        self.kept, self.memory, self.version, self.dtype = kept, Memory(x), x._version, x.dtype
        self._read: Callable[[], Tensor | None] = lambda: None

    def read(self) -> Tensor:
        found = self._read()
        if found is None:
            found = self.kept.read()
            self._read = weakref.ref(found)
        return found


@dataclass(frozen=True)
class _View:
    """What stands for a saved tensor in the graph."""

    entry: _Entry
    size: torch.Size
    stride: tuple[int, ...]
    offset: int
    device: str


@dataclass(frozen=True)
class _Compressed:
    entry: _Entry
    before: int
    """Bytes."""
    packed: Packed
    error: Tensor
    slot: Slot
    differentiable: bool


class Forward:
    """The hooks of one forward pass of the block `name`; the storages that it has met are forgotten at its end.

    slot: makes or finds the slot of a name. step: the optimizer's steps so far.
    """

    def __init__(self, name: str, slot: Callable[[str], Slot], spared: Storages, totals: Totals, step: int) -> None:
        self._name, self._slot, self._spared, self._totals, self._step = name, slot, spared, totals, step
        self._entries: dict[int, _Entry] = {}
        self._compressed: list[_Compressed] = []
        self._saves = self._largest = 0

    def pack(self, x: Tensor) -> _View | _Same:
        """Called by autograd for each tensor that it saves."""
        self._saves += 1
        if isinstance(x, nn.Parameter) or x in self._spared or x.layout != torch.strided:
            return _Same(x.detach(), x._version)
        entry = self._entries.get(address(x))
        if entry is None or entry.version != x._version or entry.dtype != x.dtype or entry.memory.gone:
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                entry = self._entries[address(x)] = self._keep(x)
        return _View(entry, x.size(), x.stride(), int(x.storage_offset()), x.device.type)

    def unpack(self, saved: _View | _Same) -> Tensor:
        """Called by autograd for what `pack` gave it."""
        if isinstance(saved, _Same):
            return saved.read()
        with torch.no_grad(), torch.autocast(saved.device, enabled=False):
            return saved.entry.read().as_strided(saved.size, saved.stride, saved.offset)

    def end(self) -> None:
        """Counts what was compressed. What has no gradient and outlives the block is somebody's constant, such as the
        codes of ternary weights: it is kept as it is, and not counted, as compressing it frees nothing."""
        for found in self._compressed:
            constant = None if found.differentiable else found.entry.memory.whole()
            if constant is not None:
                found.entry.kept = _Same(constant, constant._version)
            else:
                self._totals.count(found.before, found.packed.nbytes)
                self._totals.packed.append((found.slot, found.before, found.packed.bits, found.error))
        self._entries, self._compressed = {}, []

    def _keep(self, x: Tensor) -> _Entry:
        size = x.untyped_storage().nbytes()
        count = size // x.element_size()
        parameter, copied = _origin(x)
        if parameter is not None and not copied:
            return _Entry(x, _Same(whole(x), x._version))
        if parameter is not None and count == parameter.numel() and parameter.is_contiguous():
            self._totals.count(size, 0)
            return _Entry(x, _Cast(_Same(parameter.detach(), parameter._version), x.dtype))
        self._largest = max(self._largest, count)
        few = size < _LEAST_BYTES or count * _STATISTICS < self._largest
        narrow = x.dtype == torch.float32 and x.numel() == count and x.shape[-1:] < (_NARROW,)
        if few or narrow or parameter is not None or x.dtype not in _FLOATS or size % x.element_size():
            self._totals.count(size, size)
            return _Entry(x, _Same(whole(x), x._version))
        slot = self._slot(f"{self._name}/{self._saves}")
        packed, error = slot.pack(whole(x), _row(x, count), self._step)
        entry = _Entry(x, packed)
        self._compressed.append(_Compressed(entry, size, packed, error, slot, x.requires_grad))
        return entry


def _row(x: Tensor, count: int) -> int:
    """Numbers in a row of the matrix that the `count` numbers of x's memory are: the longest stride that can be one."""
    widest = min(_WIDEST_ROW, count // _FEWEST_ROWS)
    return max(stride for stride in (1, *x.stride()) if 0 < stride <= widest and count % stride == 0)


def _origin(x: Tensor) -> tuple[nn.Parameter | None, bool]:
    """The parameter that x shows, and whether x is a copy of it in another dtype. A copy of a view counts as copied,
    and as more or less numbers than the parameter has."""
    node: Node | None = x.grad_fn
    copied = False
    while node is not None and (node.name() in _VIEWS or (node.name() == _CAST and not copied)):
        copied |= node.name() == _CAST
        node = node.next_functions[0][0]
    variable = getattr(node, "variable", None)
    return (variable if isinstance(variable, nn.Parameter) else None), copied
