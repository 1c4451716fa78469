"""Layer normalisation (arXiv 1607.06450) and RMSNorm (arXiv 1910.07467) over the last dimension."""

import torch
from torch import Tensor, nn

from eco.kernels.norm import layer_norm, rms_norm


class LayerNorm(nn.Module):
    """(..., width) -> (..., width): zero mean and unit variance, then a learned scale and shift."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """(..., width) -> (..., width): unit root mean square, then a learned scale."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)
