"""Adam-atan2 (Everett et al., arXiv 2407.05872): Adam whose quotient is an arctangent, so it needs no epsilon.

The step does not change when the loss is scaled, and no weight moves by more than lr x pi/2 once the means have warmed
up; TRM (arXiv 2510.04871) trains with it, without clipping. Puzzle tables take sign descent on the rows that a step
touched. The published training decays every parameter; here, as in all optimizers of this folder, vectors never decay,
which for a recursive reasoner spares the halting head's bias alone.
"""

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from eco.config import setting
from eco.optim.contract import OptimizerConfig, decay_groups, tables
from eco.optim.parts.sparse_sign import step_rows


class Config(OptimizerConfig):
    """Defaults are those of the published training on ARC; Sudoku and mazes decay by 1 and let tables learn at `lr`."""

    name: str = setting("adam_atan2", "Optimizer: the name of a file in eco/optim.", flat="optimizer")
    lr: float = setting(1e-4, "Peak learning rate; the schedule scales it.", flat="lr", gt=0)
    beta1: float = setting(0.9, "Decay of the running mean of gradients, per step.", flat="adam-beta1", ge=0, lt=1)
    beta2: float = setting(0.95, "Decay of the running mean of squares, per step.", flat="adam-beta2", ge=0, lt=1)
    table_lr: float = setting(1e-2, "Peak learning rate of puzzle tables: how far a touched row's values move.", gt=0)
    table_weight_decay: float = setting(0.1, "Decoupled weight decay of the touched rows of puzzle tables.", ge=0)


def build(config: Config, model: nn.Module) -> "AdamAtan2":
    """Adam-atan2 for the trainable parameters of `model`, sign descent for its puzzle tables."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = decay_groups(trainable, config, betas=(config.beta1, config.beta2), table=False)
    if members := tables(model):
        rate = {"lr": config.table_lr, "initial_lr": config.table_lr}
        groups.append({"params": members, "weight_decay": config.table_weight_decay, **rate, "table": True})
    return AdamAtan2(groups)


class AdamAtan2(torch.optim.Optimizer):
    """Steps groups with `table` by sign descent on rows and the others by Adam-atan2.

    groups: as `build` makes them.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        assert closure is None, "the gradients are there before the step"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if group["table"]:
                    step_rows(parameter, parameter.grad, group["lr"], group["weight_decay"])
                else:
                    self._step_dense(parameter, parameter.grad, group)

    def _step_dense(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        # One tensor at a time: on a CPU the passes find it in the cache and beat the `_foreach` kernels by half.
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        beta1, beta2 = group["betas"]
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        update = square.sqrt().div_(sqrt(1 - beta2 ** state["step"]))
        torch.atan2(mean, update, out=update)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] / (1 - beta1 ** state["step"]))
