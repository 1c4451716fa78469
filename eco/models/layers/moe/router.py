"""Which experts a token goes to, and with what weight: sigmoid affinities as in DeepSeek-V3 (arXiv 2412.19437, 2.1.2).

The load is kept even without a loss (arXiv 2408.15664): a bias is added to the affinities for the choice alone, and
after each step it rises a little for experts with less than the mean load and falls for the others.
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eco.models.layers.pinned import pinned

Precision = Literal["bf16", "int8"]

USAGE_DECAY = 0.95
"""Of the moving average of the load, per optimizer step."""


class Choice(NamedTuple):
    """What the router makes of its tokens, (...) of them. All but the experts in fp32."""

    experts: Tensor
    """(..., k) int64, ascending: the order in which they are added up does not depend on their affinities."""
    gates: Tensor
    """(..., k): the affinities of the chosen, in proportion, with sum 1. The bias has no part in them."""
    log_p: Tensor
    """(..., E): log p(e|x), all affinities in proportion."""
    logits: Tensor
    """(..., E): their sigmoid is the affinity."""


class Router(nn.Module):
    """(..., width) -> Choice, k of `experts` experts.

    jitter: standard deviation of the noise on the logits in training, from torch's default generator. precision: the
    grid on which the weights lie in the forward pass; the products are fp32.
    """

    bias: Tensor
    usage: Tensor
    temperature: Tensor

    def __init__(self, width: int, experts: int, top_k: int, *, jitter: float, precision: Precision) -> None:
        super().__init__()
        self.top_k, self.jitter, self.precision = top_k, jitter, precision
        self.score = nn.Linear(width, experts, bias=False)
        self.register_buffer("bias", torch.empty(experts))
        self.register_buffer("usage", torch.empty(experts))  # moving average of each expert's share of the load
        self.register_buffer("temperature", torch.empty(()))

    def init_own(self, generator: torch.Generator) -> None:
        """Fills the buffers: no bias, even usage. Draws nothing."""
        self.bias.zero_()
        self.usage.fill_(1 / len(self.usage))
        self.temperature.fill_(1.0)

    def forward(self, x: Tensor) -> Choice:
        weight = _RoundStraightThrough.apply(self.score.weight, self.precision)  # type: ignore[no-untyped-call]
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.to(weight.dtype), weight) / self.temperature
        if self.training and self.jitter > 0:
            logits = logits + self.jitter * torch.randn_like(logits)
        experts = pinned(lambda: self._chosen(logits))
        log_p = F.logsigmoid(logits).log_softmax(-1)
        return Choice(experts, log_p.gather(-1, experts).softmax(-1), log_p, logits)

    def _chosen(self, logits: Tensor) -> Tensor:
        biased = torch.sigmoid(logits.detach()) + self.bias
        return biased.topk(self.top_k, sorted=False).indices.sort().values

    @torch.no_grad()
    def balance(self, load: Tensor, rate: float) -> None:
        """Moves the bias by `rate` towards an even load; load (E,): tokens of each expert in an optimizer step."""
        self.bias.add_(torch.sign(load.mean() - load), alpha=rate)
        self.usage.lerp_(load / load.sum(), 1 - USAGE_DECAY)


def expert_load(experts: Tensor, count: int) -> Tensor:
    """(..., n) int64 -> (..., count) int64: how often each expert occurs."""
    return (experts[..., None] == torch.arange(count, device=experts.device)).sum(-2)


class _RoundStraightThrough(torch.autograd.Function):
    """Weights (E, W) on the grid of bf16, or on 255 steps between each row's largest magnitudes; gradient unchanged."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, precision: Precision) -> Tensor:
        if precision == "bf16":
            return weight.bfloat16().to(weight.dtype)
        step = weight.abs().amax(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny) / 127
        return (weight / step).round() * step

    @staticmethod
    def backward(ctx: Any, dweight: Tensor) -> tuple[Tensor, None]:
        return dweight, None
