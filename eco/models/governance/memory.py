"""Memory slots: vectors that carry what was in one segment of a window to the segments behind it.

As in the Recurrent Memory Transformer (arXiv 2207.06881) the slots stand in front of a segment's tokens, so that every
block reads them by its ordinary attention. They are written apart from it, by cross-attention on the segment's final
hidden states and behind gates, so that what a segment does not touch is kept as it is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eco.models.layers.init import STD
from eco.models.layers.norm import RMSNorm

_GATE_BIAS = -1.0
"""Gates start about a quarter open: a write shows at once, and 0.4 of a memory outlives three segments."""


class MemorySlots(nn.Module):
    """`slots` vectors of the residual stream's `width`; those of a window's first segment are learned."""

    def __init__(self, width: int, slots: int, heads: int, norm_eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.initial = nn.Parameter(torch.empty(slots, width))
        self.norm = RMSNorm(width, norm_eps)
        self.query = nn.Parameter(torch.empty(width, width))
        self.key_value = nn.Parameter(torch.empty(2 * width, width))
        self.output = nn.Parameter(torch.empty(width, width))
        self.gate = nn.Linear(2 * width, width)

    def init_own(self, generator: torch.Generator) -> None:
        # At the usual 0.02 a segment reaches the slots so faintly that a small model finds no use for them.
        preserving = self.initial.shape[1] ** -0.5
        scales = (self.initial, STD), *((matrix, preserving) for matrix in (self.query, self.key_value, self.output))
        for parameter, std in scales:
            parameter.copy_(torch.empty(parameter.shape, device="cpu").normal_(0.0, std, generator=generator))

    def start(self, batch: int) -> Tensor:
        """The slots (B, M, width) of a window's first segment."""
        return self.initial.expand(batch, -1, -1)

    def write(self, memory: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The slots (B, M, width) behind a segment whose final hidden states are (B, T, width), and how open their
        gates were, a scalar in (0, 1): their mean. Every number of a slot has a gate of its own."""
        asking, (batch, _, width) = self.norm(memory), memory.shape
        q = F.linear(asking, self.query).view(batch, -1, self.heads, width // self.heads).transpose(1, 2)
        k, v = F.linear(hidden, self.key_value).view(batch, -1, 2, self.heads, width // self.heads).unbind(2)
        read = F.scaled_dot_product_attention(q, k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2).flatten(2)
        gate = torch.sigmoid(self.gate(torch.cat([asking, read], -1)) + _GATE_BIAS)
        return memory + gate * (F.linear(read, self.output) - memory), gate.mean()

    def flops(self, tokens: int) -> float:
        """Floating-point operations of one write from so many tokens, forward and backward."""
        slots, width = self.initial.shape
        matrices = slots * (self.query.numel() + self.output.numel() + self.gate.weight.numel())
        matrices += tokens * self.key_value.numel()
        return 6.0 * matrices + 12.0 * slots * tokens * width
