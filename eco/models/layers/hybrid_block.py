"""A block of a hybrid: a mixer that keeps a state or attends, then experts, on one residual stream or on INSTANT's."""

from typing import cast

import torch
from torch import Tensor, nn

from eco.models.instant.replay import SubLayer
from eco.models.layers.hybrid_cache import LatentPast, RecurrentPast
from eco.models.layers.latent_attention import LatentAttention
from eco.models.layers.mamba3 import Mamba3
from eco.models.layers.moe import MoE, Routing, SharedExpert
from eco.models.layers.norm import RMSNorm
from eco.models.layers.pinned import replaying
from eco.models.layers.rotary import Rotation


class HybridBlock(nn.Module):
    """x + mixer(norm(x)), then x + sigmoid(g) x experts(norm(x)), on the residual stream (x + delta, not yet added)."""

    def __init__(
        self, mixer: Mamba3 | LatentAttention, experts: MoE | SharedExpert, width: int, *, eps: float, dropout: float
    ) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(width, eps)
        self.mixer = mixer
        self.experts_norm = RMSNorm(width, eps)
        self.experts = experts
        self.gate = nn.Parameter(torch.empty(()))
        self.dropout = nn.Dropout(dropout)

    def init_own(self, generator: torch.Generator) -> None:
        self.gate.zero_()

    def forward(
        self,
        x: Tensor,
        delta: Tensor | None,
        rotation: Rotation,
        begins: Tensor | None,
        first: Tensor | None,
        past: RecurrentPast | LatentPast | None,
    ) -> tuple[Tensor, Tensor, Routing | None]:
        x, y = self.mixer_norm.add(x, delta)
        x, y = self.experts_norm.add(x, self._mix(y, rotation, begins, first, past))
        return x, *self._feed(y)

    def sublayers(
        self,
        rotation: Rotation,
        begins: Tensor | None,
        first: Tensor | None,
        past: RecurrentPast | LatentPast | None,
        routings: list[Routing],
    ) -> tuple[SubLayer, SubLayer]:
        """The routing of a first run is added to `routings`; its losses are there as numbers, for as the experts'
        further outputs they hold the graph, which holds `feed` and `routings`: a ring that nobody could free."""

        def mix(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            return self._mix(self.mixer_norm(x), rotation, begins, first, past), ()

        def feed(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            y, routing = self._feed(self.experts_norm(x))
            if routing is None:
                return y, ()
            if not replaying():
                routings.append(routing._replace(losses={name: x.detach() for name, x in routing.losses.items()}))
            return y, tuple(routing.losses.values())

        experts = SubLayer.of(feed, self.experts_norm, self.experts, self.gate)
        return SubLayer.of(mix, self.mixer_norm, self.mixer), experts

    def _mix(
        self,
        y: Tensor,
        rotation: Rotation,
        begins: Tensor | None,
        first: Tensor | None,
        past: RecurrentPast | LatentPast | None,
    ) -> Tensor:
        if isinstance(self.mixer, Mamba3):
            mixed = self.mixer(y, begins, cast(RecurrentPast | None, past))
        else:
            mixed = self.mixer(y, rotation, first, cast(LatentPast | None, past))
        return cast(Tensor, self.dropout(mixed))

    def _feed(self, y: Tensor) -> tuple[Tensor, Routing | None]:
        routing = None
        if isinstance(self.experts, MoE):
            y, routing = self.experts(y)
        else:
            y = self.experts(y)
        return self.dropout(y * self.gate.sigmoid().to(y.dtype)), routing
