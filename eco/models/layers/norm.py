"""Layer normalisation (arXiv 1607.06450) and RMSNorm (arXiv 1910.07467) over the last dimension.

`add` is the norm in a residual stream: the last sub-layer's output is added and the sum normalised, in one pass.
"""

import torch
from torch import Tensor, nn

from eco.kernels.norm import add_layer_norm, add_rms_norm, layer_norm, rms_norm


class LayerNorm(nn.Module):
    """(..., width) -> (..., width): zero mean and unit variance, then a learned scale and shift."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)

    def add(self, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """x + delta and that normalised; delta None: x and that normalised."""
        if delta is None:
            return x, self(x)
        return add_layer_norm(x, delta, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """(..., width) -> (..., width): unit root mean square, then a learned scale."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """x + delta and that normalised; delta None: x and that normalised."""
        if delta is None:
            return x, self(x)
        return add_rms_norm(x, delta, self.weight, self.eps)
