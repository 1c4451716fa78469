"""The router as a noisy channel from tokens to experts: how much of a token its expert tells, and the price put on it.

The information bottleneck (arXiv physics/0004057, variational form 1612.00410) trades what a code keeps of its input
against its cost. Here the code is the expert index e, drawn from p(e|x) with few values, so that the information is no
bound but exact over the batch: I(X;E) = H(mean of p) - mean of H(p).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

TEMPERATURES = (0.8, 1.35)
"""Least and greatest."""


@dataclass(frozen=True)
class RibConfig:
    """Weights of the three terms of `rib_loss`, and what the temperature makes of the information.

    collapse: of the load's distance from uniform. info: of the entropy of a token's choice. confidence: of the
    information. temperature_gain: see `temperature`.
    """

    collapse: float = 0.08
    info: float = 0.03
    confidence: float = 0.03
    temperature_gain: float = 0.55


class Information(NamedTuple):
    """Of a batch of tokens; entropies are scalars in nats."""

    mean: Tensor
    """(E,): the mean of p."""
    load_entropy: Tensor
    """H(mean of p): log E where all experts are used alike."""
    token_entropy: Tensor
    """Mean of H(p): 0 where each token is sure of its expert."""

    @property
    def retained(self) -> Tensor:
        """I(X;E), between 0 and log E."""
        return self.load_entropy - self.token_entropy


def information(log_p: Tensor) -> Information:
    """Of log-probabilities (..., E) of the experts, all tokens alike."""
    p = log_p.exp()
    mean = p.flatten(0, -2).mean(0).clamp_min(torch.finfo(p.dtype).tiny)
    return Information(mean, -(mean * mean.log()).sum(), -(p * log_p).sum(-1).mean())


def rib_loss(found: Information, config: RibConfig) -> Tensor:
    """Scalar without unit: experts that lie idle, tokens that hesitate and routing that ignores its token all cost.

    As I(X;E) = H(mean p) - mean H(p), the three terms say that information is worth having; nothing here bounds it but
    log E, and the losses of the model itself.
    """
    most = math.log(len(found.mean))
    price = config.collapse * (most - found.load_entropy) + config.info * found.token_entropy
    return (price - config.confidence * found.retained) / most


def temperature(usage: Tensor, retained: Tensor, config: RibConfig) -> Tensor:
    """Of the router's next step: higher where the load is uneven, lower where the routing is informative.

    usage: (E,), each expert's share of the load. retained: I(X;E) / log E, scalar. Within TEMPERATURES.
    """
    return (1 + usage.max() - usage.min() - config.temperature_gain * retained).clamp(*TEMPERATURES)
