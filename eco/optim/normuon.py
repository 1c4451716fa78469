"""NorMuon (Li et al., arXiv 2510.05491): Muon whose rows, the weights of one neuron each, learn at rates of their own.

After orthogonalisation the rows of an update O (m, n) still differ in length. A running mean v of each row's mean
square evens them out over the steps: O' = O / (sqrt(v) + eps), by rows, and W moves by lr x 0.2 x sqrt(m n) x O' /
||O'||_F, the size of AdamW's updates. The momentum is Nesterov's, as in Muon. A young v is too small by one factor for
all rows, which the division by the norm takes out: the step is that with an unbiased v.
"""

from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from eco.config import setting
from eco.optim.parts.orthogonal import RMS, Matrix, Orthogonal, OrthogonalConfig

EPS = 1e-8
"""Added to the root of a row's mean square, which is about 1 / sqrt(max(m, n))."""


class Config(OrthogonalConfig):
    """Muon's settings, and the memory of the rows' sizes."""

    name: str = setting("normuon", "Optimizer: the name of a file in eco/optim.", flat="optimizer")
    row_beta2: float = setting(
        0.95, "Decay of the mean of each row's squares, per step.", flat="muon-row-beta2", ge=0, lt=1
    )


def build(config: Config, model: nn.Module) -> "NorMuon":
    """NorMuon for the trainable hidden matrices of `model`, AdamW for the rest."""
    return NorMuon(config, model, row_beta2=config.row_beta2)


class NorMuon(Orthogonal):
    """Adds the orthogonal factor with its rows evened out. State beside the momentum: `row_square` (m,)."""

    def _new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        return {**super()._new_state(parameter), "row_square": parameter.new_zeros(len(parameter))}

    def _update(self, matrix: Matrix, factor: Tensor, group: dict[str, Any]) -> tuple[Tensor, Tensor]:
        square = self.state[matrix.parameter]["row_square"][matrix.rows]
        lengths = torch.linalg.vector_norm(factor, dim=1, dtype=torch.float32)
        square.lerp_(lengths.square() / factor.shape[1], 1 - group["row_beta2"])
        rates = (square.sqrt() + EPS).reciprocal()
        length = torch.linalg.vector_norm(lengths * rates)  # of the evened update, without a pass over its elements
        return factor, rates * (group["lr"] * RMS * sqrt(factor.numel()) / length.clamp_min(1e-30))
