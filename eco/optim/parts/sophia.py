"""Sophia-G (Liu et al., arXiv 2305.14342): momentum over a sampled curvature of each weight, clipped to a step of lr.

    m <- beta1 m + (1 - beta1) g                         each step, g the gradient
    h <- beta2 h + (1 - beta2) B s^2                     each refresh, see `refresh`
    w <- w (1 - lr x weight_decay) - lr clip(m' / max(rho (h' + damping), eps), 1)

m' and h' are m and h with the bias of their start taken out, which the paper leaves in: a curvature that is too small
would promise too much, and the damping (`eco.optim.parts.damping`) is judged by what was promised. Before the first
refresh h is 0 and the step is nearly its sign.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eco.optim.parts.damping import Damping


class Outcome(NamedTuple):
    """What the quadratic model of the loss says of a step d, weight decay included."""

    linear: float
    """g.d, of the gradients that the step was given."""
    quadratic: float
    """1/2 d.H.d, with H the diagonal h'."""
    curved_share: float
    """Share of the weights whose step the curvature sets, not the clip."""


class Sophia(torch.optim.Optimizer):
    """Steps all groups by Sophia-G. Whoever trains calls `refresh` now and then.

    groups: their entries `lr`, `weight_decay`, `betas`, `eps` and `rho` are those of the formula.
    damping: what is added to the curvature; its value is part of the state.
    """

    def __init__(self, groups: list[dict[str, Any]], damping: Damping) -> None:
        super().__init__(groups, {})
        self.damping = damping
        self.measure = False
        """Set before a step: that step keeps its `outcome`."""
        self.outcome: Outcome | None = None
        self._steps = self._refreshes = self._elements = 0
        self._sums: list[Tensor] = []

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        assert closure is None, "the gradients are there before the step"
        self._steps, self._elements, self._sums = self._steps + 1, 0, []
        for group in self.param_groups:
            for members, gradients in self._together(group):
                self._elements += sum(p.numel() for p in members)
                before = [p.clone() for p in members] if self.measure else []
                update = self._update(members, gradients, group)
                torch._foreach_mul_(members, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(members, update, alpha=-group["lr"])
                if self.measure:
                    self._sums += self._sums_of(members, gradients, before, update, group)
        self.outcome = self._outcome() if self.measure else None
        self.measure = False

    @torch.no_grad()
    def refresh(self, count: int) -> float:
        """Takes the gradients in `.grad` as a sample of the curvature, the Gauss-Newton-Bartlett estimate B s^2.

        They are s, those of the mean loss over `count` = B labels that the model's own predictions were asked for: the
        expected square of such a gradient is 1/B of the Gauss-Newton matrix's diagonal. Returns the sample's mean.
        """
        self._refreshes += 1
        total, elements = torch.zeros(()), 0
        for group in self.param_groups:
            beta2 = group["betas"][1]
            for members, gradients in self._together(group):
                curvatures = [self._of(p)["curvature"] for p in members]
                torch._foreach_mul_(curvatures, beta2)
                torch._foreach_addcmul_(curvatures, gradients, gradients, value=(1 - beta2) * count)
                total = total + torch.stack(torch._foreach_norm(gradients)).square().sum().cpu()
                elements += sum(p.numel() for p in members)
        return count * float(total) / max(elements, 1)

    def metrics(self) -> Mapping[str, float]:
        """Damping, weights moved, and of a measured step the share whose step the curvature set."""
        row = {"gnprox_damping": self.damping.value, "gnprox_step_elements": float(self._elements)}
        return row | ({"gnprox_curvature_ratio": self.outcome.curved_share} if self.outcome else {})

    def state_dict(self) -> dict[str, Any]:
        own = {"steps": self._steps, "refreshes": self._refreshes, "damping": self.damping.value}
        return {**super().state_dict(), "sophia": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if "sophia" not in state_dict:
            raise ValueError("the saved state is not that of --gn-mode sophia; go on with --gn-mode soap")
        super().load_state_dict(state_dict)
        own = state_dict["sophia"]
        self._steps, self._refreshes, self.damping.value = own["steps"], own["refreshes"], own["damping"]

    def _together(self, group: dict[str, Any]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """The parameters that have gradients, and these, as many at a time as are worked on fastest: on a CPU one, that
        it stays in the cache from pass to pass; elsewhere all, in one kernel."""
        pairs = [(p, p.grad) for p in group["params"] if p.grad is not None]
        if pairs and pairs[0][0].device.type == "cpu":
            yield from (([parameter], [gradient]) for parameter, gradient in pairs)
        elif pairs:
            yield [parameter for parameter, _ in pairs], [gradient for _, gradient in pairs]

    def _of(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["mean"] = torch.zeros_like(parameter)
            state["curvature"] = torch.zeros_like(parameter)
        return state

    def _update(self, members: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Momentum's step in units of lr; it takes the gradients into the momentum."""
        states = [self._of(p) for p in members]
        means = [state["mean"] for state in states]
        beta1, rho = group["betas"][0], group["rho"]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        unbias = 1 - beta1**self._steps
        update = torch._foreach_mul([state["curvature"] for state in states], rho * unbias / self._unbias(group))
        torch._foreach_add_(update, rho * unbias * self.damping.value)
        torch._foreach_clamp_min_(update, group["eps"] * unbias)
        torch._foreach_reciprocal_(update)
        torch._foreach_mul_(update, means)
        torch._foreach_clamp_min_(update, -1)
        torch._foreach_clamp_max_(update, 1)
        return list(update)

    def _unbias(self, group: dict[str, Any]) -> float:
        """h / this = h'."""
        return float(1 - group["betas"][1] ** max(self._refreshes, 1))

    def _sums_of(
        self,
        members: list[Tensor],
        gradients: list[Tensor],
        before: list[Tensor],
        update: list[Tensor],
        group: dict[str, Any],
    ) -> Iterator[Tensor]:
        """For each of these parameters the parts of `Outcome`, (3,) float64: sums, the last over 0 and 1."""
        for parameter, gradient, old, step in zip(members, gradients, before, update, strict=True):
            moved = (parameter - old).double()
            linear = (moved * gradient).sum()
            quadratic = (moved.square_() * self._of(parameter)["curvature"]).sum() / (2 * self._unbias(group))
            yield torch.stack([linear, quadratic, (step.abs() < 1).sum().double()])

    def _outcome(self) -> Outcome:
        linear, quadratic, curved = torch.stack(self._sums).sum(0).tolist()
        return Outcome(linear, quadratic, curved / self._elements)
