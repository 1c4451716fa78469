"""The block of TRM (arXiv 2510.04871) and HRM (arXiv 2506.21734): non-causal, normalised after each addition.

x <- norm(x + mix(x)), then x <- norm(x + swiglu(x)), with an RMSNorm that has no parameters. No layer has a bias.
"""

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eco.kernels.attention import packed_attention
from eco.kernels.norm import add_unit_rms_norm
from eco.models.layers.linear import StackedLinear
from eco.models.layers.mlp import SwiGLU
from eco.models.layers.rotary import Rotation

EPS = 1e-5


class AttentionMixing(nn.Module):
    """norm(x + attention(x)), where every position sees all: (B, S, width) -> (B, S, width)."""

    attention_inputs = ("qkv",)  # as in `eco.models.layers.attention.Attention`

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = StackedLinear(width, (width, width, width), bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        mixed = packed_attention(self.qkv(x), self.heads, self.heads, rotation, causal=False)
        return add_unit_rms_norm(x, self.output(mixed), EPS)

    def flops(self, positions: int, width: int) -> float:
        return 2.0 * _weights(self) * positions + 4.0 * positions**2 * width


class MLPMixing(nn.Module):
    """norm(x + swiglu(x)) along the positions, each channel for itself: (B, S, width) -> (B, S, width).

    The norm, too, is over the positions (as published, not as in MLP-Mixer, arXiv 2105.01601).
    """

    def __init__(self, positions: int, expansion: float) -> None:
        super().__init__()
        self.mlp = SwiGLU(positions, swiglu_units(positions, expansion), bias=False)

    def forward(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        channels = x.transpose(1, 2).contiguous()  # one copy here; product and norm would each make their own
        return add_unit_rms_norm(channels, self.mlp(channels), EPS).transpose(1, 2).contiguous()

    def flops(self, positions: int, width: int) -> float:
        return 2.0 * _weights(self) * width


class PostNormBlock(nn.Module):
    """(B, S, width) -> (B, S, width)."""

    def __init__(self, mixing: AttentionMixing | MLPMixing, width: int, expansion: float) -> None:
        super().__init__()
        self.mixing = mixing
        self.mlp = SwiGLU(width, swiglu_units(width, expansion), bias=False)

    def forward(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        x = self.mixing(x, rotation)
        return add_unit_rms_norm(x, self.mlp(x), EPS)

    def flops(self, positions: int, width: int) -> float:
        return self.mixing.flops(positions, width) + 2.0 * _weights(self.mlp) * positions


class PostNormStack(nn.Module):
    """`layers` blocks in a row: (B, S, width) -> (B, S, width)."""

    def __init__(
        self,
        layers: int,
        positions: int,
        width: int,
        heads: int,
        expansion: float,
        mixer: Literal["attention", "mlp"],
    ) -> None:
        super().__init__()

        def mixing() -> AttentionMixing | MLPMixing:
            return AttentionMixing(width, heads) if mixer == "attention" else MLPMixing(positions, expansion)

        self.blocks = nn.ModuleList(PostNormBlock(mixing(), width, expansion) for _ in range(layers))

    def forward(self, x: Tensor, rotation: Rotation | None, *, recompute: bool) -> Tensor:
        """recompute: whether the backward pass computes each block's activations again instead of storing them."""
        for block in self.blocks:
            if recompute and torch.is_grad_enabled():
                x = cast(Tensor, checkpoint(block, x, rotation, use_reentrant=False))
            else:
                x = block(x, rotation)
        return x

    def flops(self, positions: int, width: int) -> float:
        """Floating-point operations of one sample's forward pass, in matrix products and attention."""
        return sum(cast(PostNormBlock, block).flops(positions, width) for block in self.blocks)


def swiglu_units(width: int, expansion: float) -> int:
    """expansion x width x 2/3, so that three matrices weigh as much as a plain MLP's two, up to a multiple of 256."""
    return -(-round(expansion * width * 2 / 3) // 256) * 256


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
