"""What Muon and its kin share: who gets an orthogonal update, the momentum behind it, and stacks of equal shape.

Weights are fp32 and their own master copy, momentum is fp32; only the products of the orthogonalisation are bf16, where
the device multiplies it. A file in eco/optim with a `Config` of the kind of `OrthogonalConfig` and a subclass of
`Orthogonal` says what becomes of the orthogonal factors.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from eco import machine
from eco.config import setting
from eco.kernels.muon import look_ahead_, move_
from eco.optim.contract import OptimizerConfig, decay_groups, dense_parameters
from eco.optim.parts.fused_adamw import step_adamw
from eco.optim.parts.polar import orthogonalise
from eco.optim.parts.roles import hidden_matrices

STACK_ELEMENTS = 1 << 23
"""So many elements are orthogonalised at a time, which keeps all of a device busy and bounds the memory."""

CACHED_ELEMENTS = 1 << 21
"""The same on a CPU: 4 MiB in bf16, a balance of busy cores and the reach of caches."""

RMS = 0.2
"""Of an AdamW update in units of its learning rate, over a training (arXiv 2502.16982): updates are scaled to it, so
that all of a model's parameters share learning rate and weight decay."""


class OrthogonalConfig(OptimizerConfig):
    """Common to Muon's family. Learning rate and weight decay mean what they mean for AdamW."""

    momentum: float = setting(0.95, "Decay of the mean of gradients, per step.", flat="muon-momentum", ge=0, lt=1)
    max_orthogonalized_dim: int = setting(
        8192, "A matrix with a longer side is AdamW's.", flat="muon-max-orthogonalized-dim", gt=0
    )
    beta1: float = setting(0.9, "AdamW's decay of the running mean of gradients.", flat="adam-beta1", ge=0, lt=1)
    beta2: float = setting(0.95, "AdamW's decay of the running mean of squares.", flat="adam-beta2", ge=0, lt=1)
    eps: float = setting(1e-8, "AdamW's addition to the root of the mean of squares.", flat="adam-eps", gt=0)


@dataclass(frozen=True, eq=False)
class Matrix:
    """One matrix (m, n): a whole parameter or a block of its rows. The tensors are views."""

    parameter: Tensor
    block: int
    """Its place among the matrices that the parameter stacks."""
    rows: slice
    weight: Tensor
    gradient: Tensor
    momentum: Tensor


Shape = tuple[torch.Size, torch.device]
T = TypeVar("T")


class Orthogonal(torch.optim.Optimizer):
    """Steps the hidden matrices of a model by what `_update` makes of the orthogonal factor of their momentum, and the
    rest by AdamW.

    options: further entries of the matrices' group.
    """

    def __init__(self, config: OrthogonalConfig, model: nn.Module, **options: Any) -> None:
        self._blocks = hidden_matrices(model, config.max_orthogonalized_dim)
        others = [p for p in dense_parameters(model) if p not in self._blocks]
        groups: list[dict[str, Any]] = decay_groups(
            self._blocks, config, orthogonal=True, momentum=config.momentum, **options
        )
        betas = config.beta1, config.beta2
        groups += decay_groups(others, config, orthogonal=False, betas=betas, eps=config.eps, fused=True)
        super().__init__(groups, {})
        self._moved: list[Tensor] = []  # of the last step: the norm of each matrix's update,
        self._elements = 0  # and of how many elements they are

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        assert closure is None, "the gradients are there before the step"
        self._moved, self._elements = [], 0
        for group in self.param_groups:
            if group["orthogonal"]:
                self._step_matrices(list(self._matrices(group)), group)
            else:
                step_adamw(group, self.state)

    def metrics(self) -> Mapping[str, float]:
        """Of the last step: `muon_full_orth_updates`, how many matrices it moved by an orthogonalised update;
        `muon_update_rms`, the root mean square of what it added to their weights, decay left out."""
        rms = float(torch.stack(self._moved).square().sum() / self._elements) ** 0.5 if self._moved else 0.0
        return {"muon_full_orth_updates": float(len(self._moved)), "muon_update_rms": rms}

    @abstractmethod
    def _update(self, matrix: Matrix, factor: Tensor, group: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """What follows from the orthogonal factor of the matrix's direction, (m, n) in bf16 or fp32: the update to
        subtract, (m, n), and the sizes of its rows, (m,) fp32; nothing waits for the device."""

    def _prepare(self, directions: Tensor) -> None:
        """Changes in place what is orthogonalised, Nesterov's momenta of which the greatest element is 1."""

    def _new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """What is remembered of a parameter before its first step."""
        return {"momentum": torch.zeros_like(parameter)}

    def _matrices(self, group: dict[str, Any]) -> Iterator[Matrix]:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state.update(self._new_state(parameter))
            start = 0
            for block, size in enumerate(self._blocks[parameter]):
                rows = slice(start, start + size)
                views = (tensor[rows] for tensor in (parameter, parameter.grad, state["momentum"]))
                yield Matrix(parameter, block, rows, *views)
                start += size

    def _step_matrices(self, matrices: list[Matrix], group: dict[str, Any]) -> None:
        for shape, stack in stacks((m.weight.shape, m.weight.device, (m,)) for m in matrices):
            self._apply(stack, orthogonalise(self._directions(stack, *shape, group)), group)

    def _directions(
        self, stack: Sequence[Sequence[Matrix]], shape: torch.Size, device: torch.device, group: dict[str, Any]
    ) -> Tensor:
        """Takes the gradients into the momenta; the directions to orthogonalise, each of matrices side by side."""
        dtype = torch.bfloat16 if machine.training_dtype(device).dtype == "bf16" else torch.float32
        directions = torch.empty((len(stack), *shape), dtype=dtype, device=device)
        for direction, matrices in zip(directions, stack, strict=True):
            parts = zip(matrices, direction.chunk(len(matrices), dim=1), strict=True)
            largest = [look_ahead_(m.momentum, m.gradient, group["momentum"], part) for m, part in parts]
            scale(direction, torch.stack(largest).amax())
        self._prepare(directions)
        return directions

    def _apply(self, stack: Sequence[Sequence[Matrix]], factors: Tensor, group: dict[str, Any]) -> None:
        decay = 1 - group["lr"] * group["weight_decay"]
        for factor, matrices in zip(factors, stack, strict=True):
            for matrix, part in zip(matrices, factor.chunk(len(matrices), dim=1), strict=True):
                self._moved.append(move_(matrix.weight, *self._update(matrix, part, group), decay))
                self._elements += part.numel()


def stacks(items: Iterable[tuple[torch.Size, torch.device, T]]) -> Iterator[tuple[Shape, list[T]]]:
    """The items by shape and device, as many at a time as are orthogonalised together."""
    by_shape: dict[Shape, list[T]] = {}
    for shape, device, item in items:
        by_shape.setdefault((shape, device), []).append(item)
    for (shape, device), members in by_shape.items():
        count = max(1, (CACHED_ELEMENTS if device.type == "cpu" else STACK_ELEMENTS) // shape.numel())
        for first in range(0, len(members), count):
            yield (shape, device), members[first : first + count]


def scale(direction: Tensor, largest: Tensor) -> None:
    """Divides in place by the greatest magnitude; zeros stay."""
    direction.mul_(largest.clamp_min(1e-30).reciprocal())
