"""Rotary position embedding (RoPE, arXiv 2104.09864), the first half of a head paired with the second, as in Llama."""

import torch
from torch import Tensor, nn

Rotation = tuple[Tensor, Tensor]
"""cos and sin of the angles of consecutive positions, each (T, head_size / 2) fp32."""


class Rotary(nn.Module):
    """The angles of `context` positions, kept as tables; further positions are computed when asked for."""

    cos: Tensor
    sin: Tensor

    def __init__(self, head_size: int, context: int, base: float) -> None:
        super().__init__()
        self.head_size = head_size
        self.base = base
        self.register_buffer("cos", torch.empty(context, head_size // 2), persistent=False)
        self.register_buffer("sin", torch.empty(context, head_size // 2), persistent=False)

    def forward(self, start: int, count: int) -> Rotation:
        """The rotation of positions start .. start + count - 1."""
        end = start + count
        if end <= len(self.cos):
            return self.cos[start:end], self.sin[start:end]
        cos, sin = self._table(start, end)
        return cos.to(self.cos.device), sin.to(self.sin.device)

    def fill_tables(self) -> None:
        """Writes the tables, which nothing else initialises (they are no part of a checkpoint)."""
        cos, sin = self._table(0, len(self.cos))
        self.cos.copy_(cos)
        self.sin.copy_(sin)

    def _table(self, start: int, end: int) -> Rotation:
        # In fp64 on the CPU: an angle of thousands of radians would lose four digits in fp32.
        exponents = torch.arange(0, self.head_size, 2, dtype=torch.float64, device="cpu") / self.head_size
        positions = torch.arange(start, end, dtype=torch.float64, device="cpu")
        angles = torch.outer(positions, self.base**-exponents)
        return angles.cos().float(), angles.sin().float()
