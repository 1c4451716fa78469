"""The load of all mixtures of a model over one training step, by which their balancing biases move at its end."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from eco.models.layers.moe.moe import MoE, Routing


class Balance:
    """Gathers the routings of a step's micro-batches.

    loads: for each micro-batch the tokens of each expert, (mixtures, E). retained: I(X;E) / log E, (mixtures,).
    """

    def __init__(self) -> None:
        self.loads: list[Tensor] = []
        self.retained: list[Tensor] = []

    def add(self, routings: Sequence[Routing]) -> None:
        """One micro-batch, with the routing of each mixture of the model in order; none where it has no mixture."""
        if routings:
            self.loads.append(torch.stack([routing.load for routing in routings]))
            self.retained.append(torch.stack([routing.metrics["rib_retained_info"] for routing in routings]))

    def forget(self) -> None:
        """The step begins anew."""
        self.loads, self.retained = [], []

    def settle(self, model: nn.Module, average: Callable[[Iterable[Tensor]], None] | None) -> None:
        """Moves the biases of the model's mixtures. average: see `Model.after_step`."""
        if not self.loads:
            return
        load, retained = torch.stack(self.loads).sum(0), torch.stack(self.retained).mean(0)
        self.forget()
        if average is not None:
            average([load, retained])
        if retained.isfinite().all():  # else the step had no finite loss either, and its routing means nothing
            mixtures = [module for module in model.modules() if isinstance(module, MoE)]
            for mixture, counts, information in zip(mixtures, load, retained, strict=True):
                mixture.balance(counts, information)
