"""What the saving of memory has really saved, counted where the backward pass computes activations again."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from eco.models.layers.bitlinear import BitLinear

GB = 1e9
"""Bytes."""


class Lasting(NamedTuple):
    """What is in memory whether or not autograd keeps it too."""

    model: nn.Module
    further: Sequence[Tensor] = ()

    def tensors(self) -> Iterator[Tensor]:
        """As of now: `further`, and the model's parameters, buffers and codes of ternary weights."""
        yield from self.further
        for module in self.model.modules():
            yield from module.parameters(recurse=False)
            yield from module.buffers(recurse=False)
            if isinstance(module, BitLinear):
                yield from module.codes


class Tally:
    """Counts a backward pass at a time. The greatest saving of the step's passes is that of the step."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """A new step begins. Nothing of the one before is kept alive."""
        self.start(None)
        self.saved = 0
        """Bytes, of the pass in which they were most."""
        self.residuals: list[Tensor] = []
        """Of each segment's inversion: error of its input, found again, relative to the input; scalars."""
        self.inversions: list[tuple[int, float]] = []
        """Of mode fixed_point: evaluations of a sub-layer, and the relative residual that they left."""
        self.fallbacks = 0
        """Sub-layers of mode fixed_point whose input was computed forward again, not inverted."""

    def start(self, lasting: Lasting | None) -> None:
        """A new forward pass begins. lasting: what is in memory anyway, asked when its backward pass begins."""
        self._lasting = lasting
        self._places: frozenset[int] | None = None  # addresses of storages
        self._saved_in_pass = 0

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Counts what autograd keeps inside: it would have been kept since the forward pass."""
        if self._places is None:
            lasting = self._lasting.tensors() if self._lasting is not None else ()
            self._places = frozenset(tensor.untyped_storage().data_ptr() for tensor in lasting)
        seen: dict[int, int] = {}

        def kept(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(kept, _itself):
            yield
        self._saved_in_pass += sum(size for place, size in seen.items() if place not in self._places)

    def kept(self, count: int) -> None:
        """Of a segment whose backward pass is done: `count` bytes were kept for it instead."""
        self._saved_in_pass -= count
        self.saved = max(self.saved, self._saved_in_pass)


def _itself(tensor: Tensor) -> Tensor:
    return tensor
