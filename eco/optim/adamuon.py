"""AdaMuon (Si et al., arXiv 2507.11005): Muon on the signs of its momentum, with a second moment of each element.

O (m, n) is the orthogonal factor of sign(M), which does not depend on how large the gradients are; V is a running mean
of its squares, element by element. W moves by lr x 0.2 x sqrt(m n) x O' / ||O'||_F with O' = O / (sqrt(V) + eps), the
size of AdamW's updates. M is Nesterov's momentum, as in Muon. A young V is too small by one factor, which the division
by the norm takes out.
"""

from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from eco.config import setting
from eco.optim.parts.orthogonal import RMS, Matrix, Orthogonal, OrthogonalConfig

EPS = 1e-8
"""Added to the root of an element's mean square, which is about 1 / sqrt(max(m, n))."""


class Config(OrthogonalConfig):
    """Muon's settings, and the memory of the elements' sizes, by the paper that of the momentum."""

    name: str = setting("adamuon", "Optimizer: the name of a file in eco/optim.", flat="optimizer")
    element_beta2: float = setting(
        0.95, "Decay of the mean of each element's squares, per step.", flat="muon-element-beta2", ge=0, lt=1
    )


def build(config: Config, model: nn.Module) -> "AdaMuon":
    """AdaMuon for the trainable hidden matrices of `model`, AdamW for the rest."""
    return AdaMuon(config, model, element_beta2=config.element_beta2)


class AdaMuon(Orthogonal):
    """Adds the orthogonal factor with its elements evened out. State beside the momentum: `square` (m, n)."""

    def _new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        return {**super()._new_state(parameter), "square": parameter.new_zeros(parameter.shape)}

    def _prepare(self, directions: Tensor) -> None:
        directions.sign_()

    def _update(self, matrix: Matrix, factor: Tensor, group: dict[str, Any]) -> tuple[Tensor, Tensor]:
        beta2 = group["element_beta2"]
        update = factor.float()
        square = self.state[matrix.parameter]["square"][matrix.rows]
        square.mul_(beta2).addcmul_(update, update, value=1 - beta2)
        update = update / square.sqrt().add_(EPS)
        size = group["lr"] * RMS * sqrt(update.numel()) / torch.linalg.vector_norm(update).clamp_min(1e-30)
        return update, size.expand(len(update))
