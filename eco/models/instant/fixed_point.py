"""Sub-layers x <- x + s f(x) of one residual stream that keep none of their inputs (i-ResNet, arXiv 1811.00995).

Of a run of sub-layers the first stream and the last are kept. The backward pass walks back: it solves y = x + s f(x)
for each sub-layer's input x, computes f again there with gradient and goes on to the sub-layer before. What cannot be
solved to a tolerance is computed again from the first stream, and so is everything if the walk does not arrive there.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.linalg import vector_norm

from eco.models.instant.anderson import invert
from eco.models.instant.contraction import Contractions
from eco.models.instant.recompute import run_again
from eco.models.instant.replay import Replay, SubLayer
from eco.models.instant.tally import Tally

TOLERANCE = 3e-3
"""Of an inversion's residual, relative to its stream. Activations of 8 bits leave 1e-3: f then moves in steps."""

DRIFT = 1e-2
"""Relative distance by which a walk may miss the second stream of its segment, which the first one yields."""


def fixed_point_segment(
    sublayers: Sequence[SubLayer], x: Tensor, contractions: Contractions, start: int, limit: int, tally: Tally
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`contracted`, of which autograd keeps x and the returned stream only.

    limit: most evaluations of a sub-layer in one inversion.
    """
    parameters = [p for sublayer in sublayers for p in sublayer.parameters if p.requires_grad]
    factors = contractions.factors[start : start + len(sublayers)].clone().unbind()
    steps = [_Step(*pair, Replay(x.device)) for pair in zip(sublayers, factors, strict=True)]
    y, *further = _Segment.apply(steps, limit, tally, x, *parameters)  # type: ignore[no-untyped-call]
    return y, tuple(further)


class _Step(NamedTuple):
    sublayer: SubLayer
    factor: Tensor
    """() s."""
    replay: Replay

    def again(self, x: Tensor) -> Tensor:
        """s f(x), f being what it was in the first run."""
        with self.replay.again():
            return self.factor * self.sublayer.run(x)[0].to(x.dtype)


class _Segment(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, steps: list[_Step], limit: int, tally: Tally, first: Tensor, *_: nn.Parameter
    ) -> tuple[Tensor, ...]:
        ctx.steps, ctx.limit, ctx.tally, ctx.counts = steps, limit, tally, []
        x, further = first, list[Tensor]()
        for step in steps:
            with step.replay.first():
                delta, more = step.sublayer.run(x)
            x = x + step.factor * delta.to(x.dtype)
            further += more
            ctx.counts.append(len(more))
        ctx.save_for_backward(first, x)
        return x, *further

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *dfurther: Tensor) -> tuple[Tensor | None, ...]:
        first, last = ctx.saved_tensors
        inputs = _Inputs(ctx.steps, first, ctx.limit, ctx.tally)
        drift, gradients = _walk_back(ctx, inputs, ctx.tally, last, dy, dfurther)
        if not drift <= DRIFT:  # NaN too
            inputs.compute(len(ctx.steps) - 1)
            drift, gradients = _walk_back(ctx, inputs, Tally(), last, dy, dfurther)  # its savings have been counted
        ctx.tally.residuals.append(drift)
        ctx.tally.kept(first.nbytes + last.nbytes + sum(step.replay.nbytes for step in ctx.steps))
        return None, None, None, *gradients


def _walk_back(
    ctx: Any, inputs: "_Inputs", tally: Tally, y: Tensor, dy: Tensor, dfurther: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor | None]]:
    """From the last stream y of a segment to its first. How far it missed its goal, the gradients of the first stream
    and of all parameters."""
    dparameters: list[Tensor | None] = []
    remaining = len(dfurther)
    for index in reversed(range(len(ctx.steps))):
        step, remaining = ctx.steps[index], remaining - ctx.counts[index]
        dmore = dfurther[remaining : remaining + ctx.counts[index]]
        x = inputs.before(index, y)
        delta, dx, found = run_again(step.sublayer, step.replay, tally, x, step.factor * dy, dmore)
        goal = x + step.factor * delta.to(x.dtype)
        y, after, dy, dparameters = x, y, dy + dx, found + dparameters
    missed = vector_norm(after - goal, dim=(1, 2)) / vector_norm(goal, dim=(1, 2))
    return missed.max(), [dy, *dparameters]


class _Inputs:
    """The streams before the sub-layers of a segment, asked for from the last to the first.

    Where an inversion fails, those of all sub-layers before it are computed with its own, and wait for their turn: a
    segment costs at most one more forward pass and the inversions up to there.
    """

    def __init__(self, steps: list[_Step], first: Tensor, limit: int, tally: Tally) -> None:
        self._steps, self._first, self._limit, self._tally = steps, first, limit, tally
        self._computed: list[Tensor] = []  # of so many sub-layers from the first on

    def before(self, index: int, y: Tensor) -> Tensor:
        """The stream before sub-layer `index`, where y is the one after it."""
        if index == 0:
            return self._first
        if not self._computed:
            found = invert(self._steps[index].again, y, tolerance=TOLERANCE, evaluations=self._limit)
            self._tally.inversions.append((found.evaluations, found.residual))
            if found.residual <= TOLERANCE:
                return found.x
            self.compute(index)
        return self._computed.pop()

    @torch.no_grad()
    def compute(self, index: int) -> None:
        """Computes the streams before the sub-layers 0 to `index` from the first."""
        self._computed = [self._first]
        for step in self._steps[:index]:
            x = self._computed[-1]
            self._computed.append(x + step.again(x))
        self._tally.fallbacks += index
