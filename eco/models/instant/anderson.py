"""The inverse of x -> x + g(x) for a contracting g (i-ResNet, arXiv 1811.00995), by Anderson's acceleration.

x = y - g(x) is a fixed point. Anderson's method (Walker and Ni, SIAM J. Numer. Anal. 49, 2011) takes the combination of
the last iterates whose residuals cancel best; where that makes it worse, a damped step from the best iterate so far
replaces it. Each sample has coefficients of its own, so its result does not depend on its neighbours.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import vecdot, vector_norm

WINDOW = 3
"""Iterates that are combined, each with its residual: six streams of memory while an inversion runs."""

DAMPING = 0.5
"""Share of the residual that a damped step goes; each further one in a row goes half as far."""

RIDGE = 1e-7
"""Added to the diagonal of the Gram matrix, relative to its trace: near the end the residuals are almost parallel."""

AIM = 1 / 3
"""Of the tolerance: what is striven for, as the errors of many inversions in a row add up."""

STALL = 0.6
"""Of the residual before. What does not fall below that goes no further: where g rounds, no iteration can."""

_Iterate = tuple[Tensor, Tensor]
"""x and its residual y - x - g(x)."""


class Inverse(NamedTuple):
    """What `invert` found."""

    x: Tensor
    """(B, ...): the best iterate, moved on by its residual."""
    evaluations: int
    """Of g."""
    residual: float
    """|y - x - g(x)| / |y| of the worst sample at the best iterate; infinite where g was never finite."""


@torch.no_grad()
def invert(g: Callable[[Tensor], Tensor], y: Tensor, *, tolerance: float, evaluations: int) -> Inverse:
    """x (B, ...) with x + g(x) = y (B, ...), by at most `evaluations` > 0 of g.

    Ends at a residual <= AIM x tolerance, or <= tolerance where iterating has stalled. The x returned is a step further
    than the one whose residual was measured: for a contracting g it is nearer.
    """
    size = _norm(y).clamp_min(torch.finfo(y.dtype).tiny)
    x, history = y, list[_Iterate]()
    best, least, damping = (y, torch.zeros_like(y)), float("inf"), 1.0
    for count in range(1, evaluations + 1):
        residual = y - x - g(x)
        relative = float((_norm(residual) / size).max())
        stalled = not relative < STALL * least  # NaN too
        if relative < least:
            best, least, damping = (x, residual), relative, 1.0
            history = [*history, best][-WINDOW:]
        else:
            history, damping = [], damping * DAMPING
        if least <= (tolerance if stalled else AIM * tolerance):
            return Inverse(best[0] + best[1], count, least)
        x = _combined(history) if history else best[0] + damping * best[1]
    return Inverse(best[0] + best[1], evaluations, least)


def _combined(history: list[_Iterate]) -> Tensor:
    """The next iterate, x + r of the combination of `history` whose residual r is smallest, for each sample."""
    x, residual = history[-1]
    step = x + residual
    if len(history) == 1:
        return step
    changes = [(after - before).flatten(1) for (_, before), (_, after) in pairwise(history)]
    moves = [sum(after) - sum(before) for before, after in pairwise(history)]
    gram = torch.stack([torch.stack([vecdot(a, b) for b in changes], 1) for a in changes], 1)
    aim = torch.stack([vecdot(change, residual.flatten(1)) for change in changes], 1)
    ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).sum(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    gram = gram + torch.diag_embed(ridge.expand_as(aim))
    weights = torch.linalg.solve_ex(gram, aim).result
    for weight, move in zip(weights.unbind(1), moves, strict=True):
        step = step - move * weight.view(-1, *[1] * (x.dim() - 1))
    return step


def _norm(x: Tensor) -> Tensor:
    """(B, ...) -> (B,)."""
    norms: Tensor = vector_norm(x.flatten(1), dim=1)
    return norms
