"""A sub-layer of the residual stream, run once without gradient and again, to the same numbers, with it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from eco.models.layers.pinned import giving, keeping

Run = Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]
"""x (B, T, D) fp32 -> what is added to it, (B, T, D) in any float dtype, and further outputs with gradient (losses)."""


class SubLayer(NamedTuple):
    """What a block adds to the residual stream."""

    run: Run
    parts: tuple[nn.Module | nn.Parameter, ...]
    """The modules and parameters that `run` reads."""

    @classmethod
    def of(cls, run: Run, *parts: nn.Module | nn.Parameter) -> "SubLayer":
        return cls(run, parts)

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """All that `run` reads. Collected when asked for: to generate a token nobody needs them."""
        parameters: list[nn.Parameter] = []
        for part in self.parts:
            parameters += [part] if isinstance(part, nn.Parameter) else part.parameters()
        return tuple(parameters)

    def reading(self, dtype: torch.dtype) -> "SubLayer":
        """The same on a stream that is cast to `dtype` first: weights in bf16 without autocast take no fp32."""
        run = self.run
        return self._replace(run=lambda x: run(x.to(dtype)))


class Replay:
    """Makes further runs of a sub-layer repeat the first: its random numbers, its precision, its pinned decisions."""

    def __init__(self, device: torch.device) -> None:
        """device: where the sub-layer's input lies."""
        self._device = device
        self._decisions: list[Tensor] = []

    @contextmanager
    def first(self) -> Iterator[None]:
        """Around the first run."""
        kind = self._device.type
        self._autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        self._cpu_random = torch.get_rng_state()
        self._device_random = torch.cuda.get_rng_state(self._device) if kind == "cuda" else None
        with self._precision(), keeping(self._decisions):
            yield

    @contextmanager
    def again(self) -> Iterator[None]:
        """Around each further run. The random numbers of all else stay as they are."""
        with torch.random.fork_rng([self._device] if self._device_random is not None else []):
            torch.set_rng_state(self._cpu_random)
            if self._device_random is not None:
                torch.cuda.set_rng_state(self._device_random, self._device)
            with self._precision(), giving(self._decisions):
                yield

    @property
    def nbytes(self) -> int:
        """What is kept for further runs, in bytes."""
        kept = [self._cpu_random, *self._decisions, *([] if self._device_random is None else [self._device_random])]
        return sum(tensor.nbytes for tensor in kept)

    def _precision(self) -> torch.autocast:
        """Without autocast's cache: it would hand copies of weights made without gradient to a run with gradient."""
        enabled, dtype = self._autocast
        return torch.autocast(self._device.type, dtype, enabled, cache_enabled=False)
