"""Losses and gradients beside those of the step, for callbacks that ask what an update has done.

They are those of the model in evaluation mode: no dropout, no noise, no state that training moves, no loss but those
that evaluation has.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from eco.models.contract import Batch, Model, evaluating
from eco.training.precision import Precision


class Probe:
    """Asks `model` about batches that it works on `rows` samples at a time.

    weights: of named losses, where they are not the model's.

    Raises:
        ValueError: the model works on a sample over several steps, so a batch by itself has no loss.
    """

    def __init__(
        self, model: Model, precision: Precision, rows: int, weights: Mapping[str, float] | None = None
    ) -> None:
        if model.carries:
            raise ValueError(
                f"model.family {model.config.family} works on a sample over several steps, which can not be probed; "
                "take optimizer.name adam_atan2"
            )
        self._model, self._precision, self._rows = model, precision, rows
        self._weights = weights or {}

    @torch.no_grad()
    def loss(self, batch: Batch) -> float:
        """The mean loss of `batch` with the weights as they are."""
        return float(self._sum(batch, learn=False))

    def backward(self, batch: Batch) -> float:
        """That loss, and its gradient in the `.grad` of every parameter; what was there before is dropped."""
        self._model.zero_grad(set_to_none=True)
        return float(self._sum(batch, learn=True))

    def _sum(self, batch: Batch, *, learn: bool) -> Tensor:
        samples, total = len(batch["tokens"]), torch.zeros(())
        with evaluating(self._model):
            for first in range(0, samples, self._rows):
                part = {name: tensor[first : first + self._rows] for name, tensor in batch.items()}
                with self._precision.autocast():
                    losses = self._model.training_step(part).losses
                loss = weighted_total(self._model, losses, self._weights) * (len(part["tokens"]) / samples)
                if learn:
                    loss.backward()  # type: ignore[no-untyped-call]
                total = total + loss.detach().cpu()
        return total


def weighted_total(
    model: Model, losses: Mapping[str, Tensor], over: Mapping[str, float], warmth: float = 1.0
) -> Tensor:
    """The sum of the losses by the model's weights, where `over` gives no other; auxiliary ones times `warmth`."""
    weights = loss_weights(model, losses, over, warmth)
    return sum((weights[name] * loss for name, loss in losses.items()), torch.zeros(()))


def loss_weights(
    model: Model, losses: Iterable[str], over: Mapping[str, float], warmth: float = 1.0
) -> dict[str, float]:
    """The weight of each loss in the total; see `weighted_total`."""
    weights: dict[str, float] = {**model.loss_weights, **over}
    auxiliary = set() if model.main_losses is None else set(losses) - model.main_losses
    return {name: weights.get(name, 1.0) * (warmth if name in auxiliary else 1.0) for name in losses}
