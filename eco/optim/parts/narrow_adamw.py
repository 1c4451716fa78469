"""AdamW whose moments are bf16: 4 bytes of state for each weight instead of 8, and 20 instead of 28 moved by a step."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from eco.kernels.adamw import adamw_
from eco.kernels.adamw.rule import Rule


class NarrowAdamW(torch.optim.Optimizer):
    """Steps every parameter by AdamW (arXiv 1711.05101); the moments are rounded stochastically (arXiv 1502.02551).

    groups: `params`, fp32, with `lr`, `weight_decay`, `betas` and `eps`. The rounding depends on the step and on the
    place of a parameter in the groups, on nothing else: a run can be repeated and continued bit by bit.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        assert closure is None, "the gradients are there before the step"
        for number, (group, parameter) in enumerate(self._members()):
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
                state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
            state["step"] += 1
            beta1, beta2 = group["betas"]
            rule = Rule(group["lr"], beta1, beta2, group["eps"], group["weight_decay"], int(state["step"]))
            adamw_(parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"], rule, number)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Also takes the state of torch's AdamW, whose moments it rounds; torch's takes this one's."""
        # Torch would widen the moments to the parameters' fp32: for a moment, twice the memory that this class saves.
        super().load_state_dict({**state_dict, "state": {}})
        saved = [number for group in state_dict["param_groups"] for number in group["params"]]
        for number, (_, parameter) in zip(saved, self._members(), strict=True):
            if number in state_dict["state"]:
                self.state[parameter] = _narrow(state_dict["state"][number], parameter.device)

    def _members(self) -> Iterator[tuple[dict[str, Any], nn.Parameter]]:
        return ((group, parameter) for group in self.param_groups for parameter in group["params"])


def _narrow(state: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    moments = {name: state[name].to(device, torch.bfloat16) for name in ("exp_avg", "exp_avg_sq")}
    return {"step": state["step"].float().cpu(), **moments}
