"""The probe: what a packed model says to one window of held-out text, to be compared with what it says elsewhere.

Logits are computed in fp32, on the CPU, on one thread: sums that several threads share are added in an order that
depends on their number, so that otherwise the same machine would not give the same bits everywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from eco import machine
from eco.kernels.backend import backend
from eco.models.contract import LanguageModel

POSITIONS = 8
"""Whose logits are kept: one window of a vocabulary of 50257 would take 100 MB, eight positions take 1.6."""


@dataclass(frozen=True)
class Probe:
    """tokens: (1, T) int64. positions: (P,) int64, in order, the last one T - 1. logits: (P, V) fp32 at these."""

    tokens: Tensor
    positions: Tensor
    logits: Tensor

    @classmethod
    def of(cls, model: LanguageModel, tokens: Tensor) -> Self:
        """The probe of a model in evaluation mode on the CPU, over a window (1, T)."""
        last = tokens.shape[1] - 1
        positions = torch.linspace(0, last, min(POSITIONS, last + 1)).round().long()
        return cls(tokens, positions, answer(model, tokens)[0, positions].clone())

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        return cls(tensors["tokens"], tensors["positions"], tensors["logits"])

    def tensors(self) -> dict[str, Tensor]:
        return {"tokens": self.tokens, "positions": self.positions, "logits": self.logits}


def answer(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Logits (B, T, V) fp32 of the whole of `tokens` (B, T), on one thread."""
    with one_thread(), torch.no_grad():
        logits: Tensor = model(tokens)
    return logits.float()


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes on one thread; the number there was comes back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def machine_kind() -> str:
    """What the last bits of an fp32 result depend on: the processor, torch, and Eco's own kernels."""
    here = machine.inspect()
    return f"{here.processor}, {here.cpu_capability}, torch {here.torch_version}, kernels {backend('cpu')}"
