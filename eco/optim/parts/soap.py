"""SOAP (Vyas et al., arXiv 2409.11321) for hidden matrices, AdamW for everything else."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from eco.optim.parts import eigenbasis
from eco.optim.parts.fused_adamw import step_adamw


class Soap(torch.optim.Optimizer):
    """Steps groups with `largest_side` by SOAP, matrix by matrix, and the others by AdamW.

    groups: their entries are `lr`, `weight_decay`, `betas`, `eps`; those of SOAP also have `largest_side`, above which
        a side of a matrix has no basis, and `basis_every`, the steps between two refreshes of the bases; the others
        have what `step_adamw` asks for.
    blocks: parameter -> rows of the matrices that it stacks, for SOAP's groups.
    """

    def __init__(self, groups: list[dict[str, Any]], blocks: Mapping[nn.Parameter, tuple[int, ...]]) -> None:
        super().__init__(groups, {})
        self._blocks = blocks
        self._elements = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        assert closure is None, "the gradients are there before the step"
        self._elements = 0
        for group in self.param_groups:
            if "largest_side" in group:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._step_matrices(parameter, parameter.grad, group)
            else:
                step_adamw(group, self.state)
                self._elements += sum(p.numel() for p in group["params"] if p.grad is not None)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if "sophia" in state_dict:
            raise ValueError("the saved state is not that of --gn-mode soap; go on with --gn-mode sophia")
        super().load_state_dict(state_dict)

    def metrics(self) -> Mapping[str, float]:
        """Weights moved by the last step."""
        return {"gnprox_step_elements": float(self._elements)}

    def _step_matrices(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        rows, state = list(self._blocks[parameter]), self.state[parameter]
        gradients = torch.split(gradient, rows)
        if not state:
            beta2, largest_side = group["betas"][1], group["largest_side"]
            state["count"] = 0
            state["matrices"] = [eigenbasis.begin(part, beta2, largest_side) for part in gradients]
            return
        state["count"] += 1
        self._elements += parameter.numel()
        decay = 1 - group["lr"] * group["weight_decay"]
        for weight, part, matrix in zip(torch.split(parameter, rows), gradients, state["matrices"], strict=True):
            update = eigenbasis.step(matrix, part, betas=group["betas"], eps=group["eps"], count=state["count"])
            weight.mul_(decay).add_(update, alpha=-group["lr"])
            if state["count"] % group["basis_every"] == 0:
                eigenbasis.refresh(matrix)
