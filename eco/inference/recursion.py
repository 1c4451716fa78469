"""A recursive model at work: its answer after each step, and how sure its halting head is of it."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from eco.models.contract import Latent, RecursiveModel


class Step(NamedTuple):
    """What a model has after one step.

    answers: (B, L) int64, the likeliest token of each cell.
    confidence: (B,) float64 from 0 to 1, the halting head's probability that the whole answer is right. In fp32 all
        logits above 17 would be a plain 1, and the surest of several answers could not be told.
    """

    answers: Tensor
    confidence: Tensor


@torch.no_grad()
def advance(
    model: RecursiveModel,
    question: Tensor,
    latent: Latent,
    steps: int,
    disturb: Callable[[Latent], Latent] | None = None,
) -> Iterator[tuple[Latent, Step]]:
    """Goes `steps` on from `latent`, each step on what `disturb` makes of the state, and yields state and reading.

    No step is left out where the model would halt: that saves time in training only. The caller puts the model into
    evaluation mode and keeps its autocast around the whole iteration.
    """
    for _ in range(steps):
        latent = model.improve(question, disturb(latent) if disturb else latent)
        logits, halting = model.read(latent)
        yield latent, Step(logits.argmax(-1), halting.double().sigmoid())
