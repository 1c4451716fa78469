"""The two feed-forward layers: GELU (arXiv 1606.08415) and SwiGLU (arXiv 2002.05202)."""

from typing import Literal

from torch import Tensor, nn

from eco.kernels.activation import gelu, swiglu
from eco.models.layers.linear import StackedLinear


class GeluMLP(nn.Module):
    """(..., width) -> (..., width): down(gelu(up(x))); `approximate="tanh"` is GPT-2's GELU, "none" the exact one."""

    def __init__(self, width: int, feed_forward: int, approximate: Literal["tanh", "none"]) -> None:
        super().__init__()
        self.approximate: Literal["tanh", "none"] = approximate
        self.up = nn.Linear(width, feed_forward)
        self.down = nn.Linear(feed_forward, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(gelu(self.up(x), self.approximate))
        return y


class SwiGLU(nn.Module):
    """(..., width) -> (..., width): down(silu(gate(x)) * up(x)); `gate_up` yields the gate's units, then the others."""

    def __init__(self, width: int, feed_forward: int, *, bias: bool) -> None:
        super().__init__()
        self.gate_up = StackedLinear(width, (feed_forward, feed_forward), bias=bias)
        self.down = nn.Linear(feed_forward, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(swiglu(self.gate_up(x)))
        return y
