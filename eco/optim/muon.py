"""Muon (Jordan et al. 2024): momentum whose update is made orthogonal, for the matrices between embedding and head.

Each hidden matrix (m, n) moves by lr x 0.2 x sqrt(max(m, n)) times the orthogonal factor of its Nesterov momentum. The
scale gives updates the size of AdamW's, so that both share learning rate and weight decay (Moonlight, arXiv
2502.16982). Embeddings, head, norms and biases are AdamW's.
"""

from math import sqrt
from typing import Any

from torch import Tensor, nn

from eco.config import setting
from eco.optim.parts.orthogonal import RMS, Matrix, Orthogonal, OrthogonalConfig


class Config(OrthogonalConfig):
    """Learning rate and weight decay mean what they mean for AdamW."""

    name: str = setting("muon", "Optimizer: the name of a file in eco/optim.", flat="optimizer")


def build(config: Config, model: nn.Module) -> "Muon":
    """Muon for the trainable hidden matrices of `model`, AdamW for the rest."""
    return Muon(config, model)


class Muon(Orthogonal):
    """Subtracts the orthogonal factor in the size of AdamW's updates."""

    def _update(self, matrix: Matrix, factor: Tensor, group: dict[str, Any]) -> tuple[Tensor, Tensor]:
        size = group["lr"] * RMS * sqrt(max(matrix.weight.shape))
        return factor, matrix.weight.new_full((len(factor),), size)
