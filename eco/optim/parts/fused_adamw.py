"""AdamW (arXiv 1711.05101) by torch's fused kernel, for one group of an optimizer that has other rules beside it."""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw


def step_adamw(group: dict[str, Any], states: MutableMapping[Tensor, Any]) -> None:
    """Updates the parameters of `group` that have a gradient.

    group: `params`, `lr`, `betas`, `eps`, `weight_decay`, and `fused` True: it tells torch that the step counts of a
        loaded state belong on the device of the parameters.
    states: the optimizer's, by parameter; holds `step`, `exp_avg` and `exp_avg_sq`, in fp32.
    """
    parameters = [p for p in group["params"] if p.grad is not None]
    members = [_state(p, states) for p in parameters]
    beta1, beta2 = group["betas"]
    adamw(
        parameters,
        [p.grad for p in parameters],
        [state["exp_avg"] for state in members],
        [state["exp_avg_sq"] for state in members],
        [],
        [state["step"] for state in members],
        fused=True,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def _state(parameter: Tensor, states: MutableMapping[Tensor, Any]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = states[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
    return state
