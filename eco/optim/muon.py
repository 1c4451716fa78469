"""Muon (Jordan et al. 2024): momentum whose update is made orthogonal, for the matrices between embedding and head.

Each hidden matrix moves by lr x 0.2 x sqrt(max(rows, columns)) times the orthogonal factor of its Nesterov momentum.
The scale gives updates the size of AdamW's, so that both share learning rate and weight decay (Moonlight, arXiv
2502.16982). Embeddings, head, norms and biases are AdamW's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from eco import machine
from eco.config import setting
from eco.optim.contract import OptimizerConfig, decay_groups, dense_parameters
from eco.optim.parts.polar import orthogonalise

STACK_ELEMENTS = 1 << 23
"""So many elements are orthogonalised at a time: 16 MiB in bf16, a balance of busy cores and the reach of caches."""


class Config(OptimizerConfig):
    """Learning rate and weight decay mean what they mean for AdamW."""

    name: str = setting("muon", "Optimizer: the name of a file in eco/optim.", flat="optimizer")
    momentum: float = setting(0.95, "Decay of the mean of gradients, per step.", flat="muon-momentum", ge=0, lt=1)
    beta1: float = setting(0.9, "AdamW's decay of the running mean of gradients.", flat="adam-beta1", ge=0, lt=1)
    beta2: float = setting(0.95, "AdamW's decay of the running mean of squares.", flat="adam-beta2", ge=0, lt=1)
    eps: float = setting(1e-8, "AdamW's addition to the root of the mean of squares.", flat="adam-eps", gt=0)


def build(config: Config, model: nn.Module) -> "Muon":
    """Muon for the trainable hidden matrices of `model`, AdamW for the rest."""
    blocks = hidden_matrices(model)
    others = [p for p in dense_parameters(model) if p not in blocks]
    groups: list[dict[str, Any]] = decay_groups(blocks, config, orthogonal=True, momentum=config.momentum)
    # `fused` also tells torch that the step counts of this group live on the parameters' device
    groups += decay_groups(
        others, config, orthogonal=False, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
    )
    return Muon(groups, blocks)


def hidden_matrices(model: nn.Module) -> dict[nn.Parameter, tuple[int, ...]]:
    """The weights that Muon takes, each with the rows of the matrices that it stacks.

    They are the trainable weights of `nn.Linear` modules, except the head (a module called `head`, whose rows are
    tokens), what is tied to an embedding, and single rows or columns. A module that computes several projections with
    one matrix, such as queries, keys and values, tells their rows in `row_blocks`; each block is orthogonalised by
    itself, so that none of them owes its update's size to the others' gradients.

    Raises:
        ValueError: `row_blocks` does not add up to the rows of the weight.
    """
    embeddings = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    found: dict[nn.Parameter, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or name.rpartition(".")[2] == "head":
            continue
        weight = module.get_parameter("weight")
        if weight.requires_grad and weight not in embeddings and min(weight.shape) > 1:
            found[weight] = tuple(getattr(module, "row_blocks", (len(weight),)))
            if sum(found[weight]) != len(weight):
                raise ValueError(f"{name}.row_blocks is {found[weight]}, but the weight has {len(weight)} rows")
    return found


@dataclass(frozen=True)
class _Matrix:
    """Views of one matrix: a whole parameter or a block of its rows."""

    weight: Tensor
    gradient: Tensor
    momentum: Tensor


class Muon(torch.optim.Optimizer):
    """Steps groups with `orthogonal` by Muon and the others by AdamW.

    groups: as `build` makes them.
    blocks: parameter -> rows of the matrices it stacks, for the groups with `orthogonal`.
    """

    def __init__(self, groups: list[dict[str, Any]], blocks: dict[nn.Parameter, tuple[int, ...]]) -> None:
        super().__init__(groups, {})
        self._blocks = blocks

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        assert closure is None, "the gradients are there before the step"
        for group in self.param_groups:
            if group["orthogonal"]:
                self._step_matrices(group)
            else:
                self._step_adamw(group)

    def _step_matrices(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[torch.Size, torch.device], list[_Matrix]] = {}
        for matrix in self._matrices(group):
            by_shape.setdefault((matrix.weight.shape, matrix.weight.device), []).append(matrix)
        for (shape, device), matrices in by_shape.items():
            dtype = torch.bfloat16 if machine.training_dtype(device).dtype == "bf16" else torch.float32
            count = max(1, STACK_ELEMENTS // shape.numel())
            for first in range(0, len(matrices), count):
                _step_stack(matrices[first : first + count], group, dtype)

    def _matrices(self, group: dict[str, Any]) -> Iterator[_Matrix]:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            rows = self._blocks[parameter]
            views = (tensor.split(rows) for tensor in (parameter, parameter.grad, state["momentum"]))
            for weight, gradient, momentum in zip(*views, strict=True):
                yield _Matrix(weight, gradient, momentum)

    def _step_adamw(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        states = [self._adam_state(p) for p in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [p.grad for p in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _adam_state(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def _step_stack(matrices: list[_Matrix], group: dict[str, Any], dtype: torch.dtype) -> None:
    """One Muon step of matrices of equal shape."""
    shape, momentum = matrices[0].weight.shape, group["momentum"]
    stack = torch.empty((len(matrices), *shape), dtype=dtype, device=matrices[0].weight.device)
    for row, matrix in zip(stack, matrices, strict=True):
        matrix.momentum.lerp_(matrix.gradient, 1 - momentum)
        nesterov = matrix.gradient.lerp(matrix.momentum, momentum)
        row.copy_(nesterov.div_(torch.linalg.vector_norm(nesterov).clamp_min_(1e-30)))
    size = -group["lr"] * 0.2 * sqrt(max(shape))
    for update, matrix in zip(orthogonalise(stack), matrices, strict=True):
        matrix.weight.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.weight.add_(update, alpha=size)
