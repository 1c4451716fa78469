"""What each block of the last update did for a loss, predicted for all blocks at once or measured one by one.

The credit of block b of an update d that led to the weights theta' is what leaving it out would have cost,

    C_b = L(theta' - d_b) - L(theta')  ~  -<g, d_b> + 1/2 <d_b, h d_b>,

positive where the block helped; g is the gradient of L at theta', h the diagonal of its curvature. Leave-one-out
counterfactuals are those of difference rewards (as in COMA, arXiv 1705.08926); the Taylor series is that of TracIn
(arXiv 2002.08484) and of in-run data Shapley (arXiv 2406.11011), there over samples, here over blocks of weights.

h is the empirical Fisher diagonal, N times C3O's mean of squared gradients for the N tokens of a step: the square of a
mean of N independent gradients with mean zero is an N-th of their mean square. Clipped gradients make it too small, and
it leaves out what the elements of a block do together.
"""

from bisect import bisect
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from eco.models.contract import Batch, Model
from eco.optim.c3o import C3O
from eco.training.probe import Probe


class Prediction(NamedTuple):
    """Of all blocks of all parameters, in the optimizer's order: (blocks,) float64, in nats.

    credit: what each block's update gained.
    reach: the sum of |g d| over its elements, what it would have gained, to the first order, had no element moved
        against the gradient.
    """

    credit: Tensor
    reach: Tensor


@torch.no_grad()
def predicted(optimizer: C3O, probe: Probe, windows: Batch, tokens: int) -> Prediction:
    """The credit of the update that has just been made.

    It takes the gradients of the step, or what is left of them in `.grad`, as the sign of who moved, and drops them.
    tokens: of the step, over all processes.
    """
    moved = {parameter for parameter in optimizer.blocks if parameter.grad is not None}
    with torch.enable_grad():
        probe.backward(windows)
    parts: list[Tensor] = []
    for parameter, offsets in optimizer.blocks.items():
        gradient, parameter.grad = parameter.grad, None
        if parameter not in moved or gradient is None:
            parts.append(torch.zeros(2, len(offsets) - 1, dtype=torch.float64, device=parameter.device))
            continue
        change = optimizer.last_update(parameter)
        reach = (gradient * change).abs_()
        credit = optimizer.curvature(parameter).mul_(tokens / 2).mul_(change).sub_(gradient).mul_(change)
        at = offsets.to(parameter.device)
        sums = [torch.segment_reduce(each.flatten().double(), "sum", offsets=at) for each in (credit, reach)]
        parts.append(torch.stack(sums))
    return Prediction(*torch.cat(parts, dim=1))


@torch.no_grad()
def measured(optimizer: C3O, model: Model, probe: Probe, windows: Batch, blocks: list[int]) -> Tensor:
    """(len(blocks),) float64, in nats: the credit of these blocks, each of them really left out, and then put back.

    blocks: their places in a prediction.
    """
    parameters = list(optimizer.blocks)
    begins = [0, *accumulate(len(offsets) - 1 for offsets in optimizer.blocks.values())]
    whole, credits = probe.loss(windows), []
    for block in blocks:
        tensor = bisect(begins, block) - 1
        parameter, inside = parameters[tensor], block - begins[tensor]
        part = slice(*optimizer.blocks[parameter][inside : inside + 2].tolist())
        weights = parameter.view(-1)[part]
        kept = weights.clone()
        weights.sub_(optimizer.last_update(parameter).view(-1)[part])
        model.weights_changed()
        credits.append(probe.loss(windows) - whole)
        weights.copy_(kept)
    model.weights_changed()
    return torch.tensor(credits, dtype=torch.float64, device=parameters[0].device)


def spread_sample(credit: Tensor, count: int, dice: torch.Generator) -> list[int]:
    """About `count` blocks of different credit: one drawn from each of as many equal ranges of their order.

    credit: as predicted; blocks with none at all, which did not move, are left out.
    """
    order = credit.cpu().argsort(stable=True)
    order = order[credit.cpu()[order] != 0]
    ranges = order.tensor_split(min(count, len(order))) if len(order) else ()
    return [int(part[torch.randint(len(part), (), generator=dice)]) for part in ranges]


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's, which weighs blocks by how far they stand out, so that the noise of small ones counts little; 0 where
    there is nothing to correlate."""
    if len(one) < 2:
        return 0.0
    return float(torch.corrcoef(torch.stack([one.cpu(), other.cpu()]))[0, 1].nan_to_num())
