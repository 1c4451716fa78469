"""A mixture of experts (DeepSeekMoE, arXiv 2401.06066): each token passes the shared expert and a few of the others."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from eco.models.layers.moe.dispatch import DISPATCHES
from eco.models.layers.moe.experts import Experts, SharedExpert
from eco.models.layers.moe.information import Information, RibConfig, information, rib_loss, temperature
from eco.models.layers.moe.losses import router_z, sequence_balance
from eco.models.layers.moe.router import Choice, Precision, Router, expert_load
from eco.models.layers.pinned import replaying

Dispatch = Literal["grouped", "packed", "legacy"]


class Routing(NamedTuple):
    """What a forward pass says of the router. Losses and metrics are empty in evaluation."""

    losses: dict[str, Tensor]
    """Scalars with gradient, unweighted."""
    metrics: dict[str, Tensor]
    """Detached scalars."""
    load: Tensor
    """(E,) fp32: how many tokens each expert had."""


class MoE(nn.Module):
    """(B, T, width) -> (B, T, width) and Routing: the shared expert plus the weighted sum of `top_k` of `routed` ones.

    hidden: units of one expert; shared: how many experts the shared one is as wide as, 0 for none. dispatch: how tokens
    reach their experts; `grouped` is fast, `packed` and `legacy` are slower ways to the same numbers. balance_rate:
    step of the load-balancing bias. rib: prices of the router's information; None for neither loss nor temperature.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        shared: int,
        routed: int,
        top_k: int,
        quantised: bool,
        eps: float,
        dispatch: Dispatch = "grouped",
        balance_rate: float = 1e-3,
        jitter: float = 0.01,
        router_precision: Precision = "bf16",
        rib: RibConfig | None = None,
    ) -> None:
        super().__init__()
        assert 0 < top_k <= routed and routed > 1, (top_k, routed)
        self.dispatch, self.balance_rate, self.rib = dispatch, balance_rate, rib
        self.router = Router(width, routed, top_k, jitter=jitter, precision=router_precision)
        self.experts = Experts(width, hidden, routed, quantised=quantised, eps=eps)
        self.shared = SharedExpert(width, shared * hidden, quantised=quantised, eps=eps) if shared > 0 else None
        self.metrics: dict[str, Tensor] = {}
        """Of the last forward pass in training."""

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        choice = self.router(x)
        rows, experts, gates = (z.flatten(0, 1) for z in (x, choice.experts, choice.gates))
        y = DISPATCHES[self.dispatch](rows, experts, gates, self.experts).view_as(x)
        if self.shared is not None:
            y = y + self.shared(x)
        load = expert_load(experts.flatten(), len(self.router.bias)).float()
        if not self.training:
            return y, Routing({}, {}, load)
        found = information(choice.log_p)
        losses = {"moe_balance": sequence_balance(choice), "moe_z": router_z(choice)}
        if self.rib is not None:
            losses["rib"] = rib_loss(found, self.rib)
        if not replaying():
            with torch.no_grad():
                self.metrics = self._measure(choice, found, load, losses)
        return y, Routing(losses, self.metrics, load)

    def balance(self, load: Tensor, retained: Tensor | None = None) -> None:
        """Moves bias, usage and temperature of the router, after each optimizer step.

        load: (E,), the sum of `Routing.load` over the step's micro-batches and processes. retained: the mean of
        `rib_retained_info` over the same; None takes that of the last forward pass, right for one process.
        """
        self.router.balance(load, self.balance_rate)
        if self.rib is not None:
            known = self.metrics["rib_retained_info"] if retained is None else retained
            self.router.temperature.copy_(temperature(self.router.usage, known, self.rib))

    def evidence(self) -> float:
        """Norm of the router's gradient: above 0, the routing learns."""
        gradient = self.router.score.weight.grad
        return 0.0 if gradient is None else gradient.norm().item()

    def bottleneck_evidence(self) -> float:
        """How far the information bottleneck has moved the router's temperature from 1."""
        return abs(self.router.temperature.item() - 1)

    def _measure(
        self, choice: Choice, found: Information, load: Tensor, losses: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        most, share = math.log(len(load)), load / load.sum()
        zero, one = load.new_zeros(()), load.new_ones(())
        int8 = self.router.precision == "int8"
        return {
            "moe_entropy": found.token_entropy.detach(),
            "moe_z_loss": losses["moe_z"].detach(),
            "moe_usage_max": share.max(),
            "moe_usage_min": share.min(),
            "moe_usage_imbalance": share.max() - share.min(),
            "moe_routed_fraction": load.sum() / choice.experts.numel(),
            "moe_router_bias_std": self.router.bias.std(correction=0),
            "moe_router_temp": self.router.temperature.clone(),
            "moe_gate_precision_bf16": zero if int8 else one,
            "moe_gate_precision_int8": one if int8 else zero,
            "rib_retained_info": found.retained / most,
            "rib_router_compression": found.token_entropy / most,
            "rib_router_collapse": found.mean.max() - found.mean.min(),
            "rib_aux_loss": losses["rib"].detach() if "rib" in losses else zero,
        }
