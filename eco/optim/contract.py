"""What every optimizer offers: a `Config`, and `build(config, model) -> torch.optim.Optimizer`.

A file in this folder is an optimizer; the recipe's `optimizer.name` is the file's name. `build` takes the trainable
parameters of the model and puts them into groups, each with its `initial_lr`: before each step the trainer sets `lr` to
`initial_lr` times the factor of its schedule. Parameters are fp32 and their own master copy. A puzzle table, of which a
step touches few rows, asks for no dense gradient and needs an optimizer with a rule for it. The whole state goes
through `state_dict` and `load_state_dict`; the next step is then bit-identical to that of the optimizer that was saved.
What an optimizer has to say of its last step it says in `metrics` (see `Measured`).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from eco.config import Config, setting


class OptimizerConfig(Config):
    """Common to all optimizers."""

    name: str = setting(..., "Optimizer: the name of a file in eco/optim.", flat="optimizer")
    lr: float = setting(1e-3, "Peak learning rate; the schedule scales it.", flat="lr", gt=0)
    weight_decay: float = setting(
        0.1, "Decoupled weight decay of the matrices; vectors never decay.", flat="weight-decay", ge=0
    )


@runtime_checkable
class Measured(Protocol):
    """An optimizer with figures of its last step, which the trainer adds to the step's row."""

    def metrics(self) -> Mapping[str, float]:
        """Flat name -> number. Whatever has to wait for the device waits here, once."""
        ...


def tables(model: nn.Module) -> list[nn.Parameter]:
    """The puzzle tables of `model`: parameters marked `is_table`, whose `grad` is sparse (rows, width), if any."""
    return [parameter for parameter in model.parameters() if getattr(parameter, "is_table", False)]


def dense_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters of `model`, a tied one once, for an optimizer that has no rule for tables.

    Raises:
        ValueError: the model has a table; it would never be trained.
    """
    if tables(model):
        raise ValueError(
            "the model has a puzzle table, which this optimizer does not train; take optimizer.name adam_atan2, or a "
            "model without one (model.puzzle_width 0)"
        )
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def decay_groups(parameters: Iterable[nn.Parameter], config: OptimizerConfig, **options: Any) -> list[dict[str, Any]]:
    """Two groups: what has two or more dimensions decays, vectors (norms, biases) do not. Empty ones are left out.

    A parameter of more dimensions that is no matrix but scales or shifts, one number a channel, is marked `is_scale`
    and counts as a vector.
    options: further entries of both groups.
    """
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in parameters:
        is_matrix = parameter.ndim >= 2 and not getattr(parameter, "is_scale", False)
        (matrices if is_matrix else vectors).append(parameter)
    rate = {"lr": config.lr, "initial_lr": config.lr}
    return [
        {"params": members, "weight_decay": decay, **rate, **options}
        for members, decay in ((matrices, config.weight_decay), (vectors, 0.0))
        if members
    ]


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """What the optimizer remembers of each parameter, from a checkpoint; its settings stay those of the recipe."""
    settings = [{name: value for name, value in g.items() if name != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
