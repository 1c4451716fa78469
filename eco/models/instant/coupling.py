"""Blocks that are computed backwards: RevNet (arXiv 1707.04585), for transformers in Reformer (arXiv 2001.04451).

The residual stream is two streams. A sub-layer reads one and adds to the other, so that what it added can be computed
again and taken away: from the end of a segment of blocks the backward pass walks to its beginning, and nothing in
between is kept.

The inverse is exact to the last bit, as far as the streams stay below 256: all that is added to them is a multiple of
STEP, so no sum is rounded. Rounded sums would not do: int8 activations and experts make a large error of a small one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from eco.models.instant.recompute import run_again
from eco.models.instant.replay import Replay, SubLayer
from eco.models.instant.tally import Tally

STEP = 2.0**-16
"""Between the values that a stream can have. fp32 has 24 bits, so sums are exact below 2**24 steps."""

_WITNESSES = 4096
"""Entries of each stream at the beginning of a segment that are kept, to tell how exactly it was found again."""


def coupled(sublayers: Sequence[SubLayer], x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """y1 = x1 + f(x2), y2 = x2 + g(y1) for each pair of sub-layers f, g; streams (B, T, D) fp32, of `on_grid`.

    Returns the last two streams and the further outputs of all sub-layers in a row.
    """
    further: list[Tensor] = []
    for sublayer in sublayers:
        delta, more = sublayer.run(x2)
        x1, x2 = x2, x1 + on_grid(delta)
        further += more
    return x1, x2, tuple(further)


def coupling_segment(
    sublayers: Sequence[SubLayer], x1: Tensor, x2: Tensor, tally: Tally
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """`coupled`, of which autograd keeps the returned streams only. The backward pass runs each sub-layer once more."""
    parameters = [p for sublayer in sublayers for p in sublayer.parameters if p.requires_grad]
    y1, y2, *further = _Segment.apply(sublayers, tally, x1, x2, *parameters)  # type: ignore[no-untyped-call]
    return y1, y2, tuple(further)


def on_grid(x: Tensor) -> Tensor:
    """x (...) rounded to multiples of STEP, fp32 or wider; the gradient passes unchanged."""
    rounded: Tensor = _OnGrid.apply(x)  # type: ignore[no-untyped-call]
    return rounded


class _OnGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.dtype = x.dtype
        return _steps(x).mul_(STEP)

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> Tensor:
        return dx.to(ctx.dtype)


def _steps(x: Tensor) -> Tensor:
    """x in whole steps."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).mul(1 / STEP).round_()


class _Segment(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, sublayers: Sequence[SubLayer], tally: Tally, x1: Tensor, x2: Tensor, *_: nn.Parameter
    ) -> tuple[Tensor, ...]:
        ctx.sublayers, ctx.tally = sublayers, tally
        ctx.witnesses = _witnesses(x1).clone(), _witnesses(x2).clone()
        ctx.replays, ctx.counts = [], []
        further: list[Tensor] = []
        for place, sublayer in enumerate(sublayers):
            replay = Replay(x2.device)
            with replay.first():
                delta, more = sublayer.run(x2)
            # The first two streams are the caller's.
            x1, x2 = x2, (x1.add if place < 2 else x1.add_)(_steps(delta), alpha=STEP)
            further += more
            ctx.replays.append(replay)
            ctx.counts.append(len(more))
        ctx.save_for_backward(x1, x2)
        return x1, x2, *further

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d1: Tensor, d2: Tensor, *dfurther: Tensor) -> tuple[Tensor | None, ...]:
        x1, x2 = ctx.saved_tensors
        kept = x1.nbytes + x2.nbytes + sum(replay.nbytes for replay in ctx.replays)
        dparameters: list[Tensor | None] = []
        remaining, ends = len(dfurther), len(ctx.sublayers) - 2
        for place in reversed(range(len(ctx.sublayers))):
            sublayer, remaining = ctx.sublayers[place], remaining - ctx.counts[place]
            dmore = dfurther[remaining : remaining + ctx.counts[place]]
            delta, dinput, found = run_again(sublayer, ctx.replays[place], ctx.tally, x1, d2, dmore)
            dparameters = found + dparameters
            # The last two streams are the caller's.
            x1, x2 = (x2.sub if place >= ends else x2.sub_)(_steps(delta), alpha=STEP), x1
            d1, d2 = d2, d1 + dinput
        ctx.tally.residuals.append(_residual(ctx.witnesses, (_witnesses(x1), _witnesses(x2))))
        ctx.tally.kept(kept)
        return None, None, d1, d2, *dparameters


def _witnesses(x: Tensor) -> Tensor:
    flat = x.flatten()
    return flat[:: -(-len(flat) // _WITNESSES)]


def _residual(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """|after - before| / |before|."""
    was, found = torch.cat([*before]), torch.cat([*after])
    error: Tensor = torch.dist(found, was) / was.norm()
    return error
