"""Exponential moving average of the weights: what evaluation and generation use when it is on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from eco.models.contract import Model
from eco.training.callbacks import Callback, Row
from eco.training.trainer import Trainer


class WeightAverage(Callback):
    """Feature `ema`: after each step, average = decay x average + (1 - decay) x weights (Polyak and Juditsky, 1992).

    The decay is warmed up as min(decay, (1 + step) / (10 + step)), so that the random start is forgotten early.
    Evidence: distance of the average from the weights, relative, on the smallest parameter (cheap enough to do always).
    """

    name = "ema"
    is_feature = True

    def __init__(self, model: Model, decay: float) -> None:
        self.decay = decay
        self._model = model
        self._weights: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self._average = [p.detach().clone() for p in self._weights]
        self._probe = min(range(len(self._weights)), key=lambda i: self._weights[i].numel())

    @torch.no_grad()
    def start(self, trainer: Trainer) -> None:
        if trainer.step == 0:  # the weights may have been replaced since they were drawn
            torch._foreach_copy_(self._average, self._weights)

    @torch.no_grad()
    def step(self, trainer: Trainer, row: Row) -> None:
        if row["skipped"]:  # no step, nothing to average
            return
        decay = min(self.decay, (1 + trainer.step) / (10 + trainer.step))
        torch._foreach_lerp_(self._average, self._weights, 1 - decay)
        weight, average = self._weights[self._probe], self._average[self._probe]
        trainer.ledger.count(self.name, float((weight - average).norm() / weight.norm().clamp_min(1e-12)))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the model computes with the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, average in zip(self._weights, self._average, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
        self._model.weights_changed()

    def state_dict(self) -> dict[str, Any]:
        return {"average": {str(i): tensor for i, tensor in enumerate(self._average)}}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for i, tensor in enumerate(self._average):
            tensor.copy_(state["average"][str(i)])
