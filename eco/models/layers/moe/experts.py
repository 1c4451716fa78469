"""The experts of a mixture: SwiGLU networks (arXiv 2002.05202) of one size, with a norm before the output (SubLN)."""

import torch
from torch import Tensor, nn

from eco.kernels.activation import swiglu
from eco.models.layers.bitlinear import projection
from eco.models.layers.norm import RMSNorm


class Experts(nn.Module):
    """`count` networks stacked. `gate_up` has expert 0's gate, its other units, expert 1's gate and so on."""

    def __init__(self, width: int, hidden: int, count: int, *, quantised: bool, eps: float) -> None:
        super().__init__()
        self.count = count
        self.gate_up = projection(width, (hidden, hidden) * count, quantised=quantised)
        self.norm = RMSNorm(hidden, eps)
        self.down = projection(hidden, (width,) * count, quantised=quantised)
        self.gate_up.unit_rows, self.down.unit_rows = self.gate_up.row_blocks, self.down.row_blocks

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """x (n, width), sorted by expert -> (n, width); offsets (E + 1,) int32: where each expert's rows begin."""
        hidden = swiglu(self.gate_up.grouped(x, offsets))
        return self.down.grouped(self.norm(hidden), offsets)

    def one(self, x: Tensor, expert: int) -> Tensor:
        """x (n, width), all for one expert -> (n, width)."""
        offsets = len(x) * (torch.arange(self.count + 1, device=x.device) > expert)
        return self.forward(x, offsets.int())


def idle_weights(model: nn.Module, top_k: int) -> float:
    """Weights of the matrices of all routed experts of the model that a token does not meet."""
    stacks = [module for module in model.modules() if isinstance(module, Experts)]
    return sum((e.gate_up.weight.numel() + e.down.weight.numel()) * (1 - top_k / e.count) for e in stacks)


class SharedExpert(nn.Module):
    """(..., width) -> (..., width): the network that every token passes, as wide as `shared` experts together."""

    def __init__(self, width: int, hidden: int, *, quantised: bool, eps: float) -> None:
        super().__init__()
        self.gate_up = projection(width, (hidden, hidden), quantised=quantised)
        self.norm = RMSNorm(hidden, eps)
        self.down = projection(hidden, (width,), quantised=quantised)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.norm(swiglu(self.gate_up(x))))
        return y
