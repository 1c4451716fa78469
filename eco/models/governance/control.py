"""Conditioning on what is known of a document: its metadata scale and shift what every norm puts out.

Each token's metadata become a short code, and each norm is followed by a feature-wise affine map computed from it
(FiLM, arXiv 1709.07871). The map starts as the identity (AdaLN-Zero, arXiv 2212.09748). Some samples are trained
without metadata, so that one model knows both distributions and guidance can lead from one to the other
(classifier-free guidance, arXiv 2207.12598; see `eco.inference.guidance`).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = ("quality", "alignment", "priority", "decay", "position")
"""The metadata of a token, numbers from 0 to 1 in this order, NaN where unknown.

quality, alignment: what the corpus says of the document, as shares of 10. priority: 0.9 high, 0.6 medium, 0.3 low.
decay: how fast older text loses weight; of a document, the mean of quality and alignment. position: tokens since the
document began, as a share of the model's context and at most 1, which says nothing of the document's length.
"""


class Control(nn.Module):
    """Metadata (B or 1, T or 1, channels) in [0, 1], NaN where unknown -> their code (B or 1, T or 1, size).

    A two-layer MLP of the channels and of which are known. None is nothing known: one learned code, (1, 1, size).
    In training whole rows are left without metadata with probability `dropout`; as many again keep each channel with
    probability 1/2, so that a user may set some and leave the others open. Drawn from torch's default generator.
    """

    def __init__(self, channels: int, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.channels, self.dropout = channels, dropout
        self.inward = nn.Parameter(torch.empty(size, 2 * channels))
        self.inward_bias = nn.Parameter(torch.empty(size))
        self.outward = nn.Parameter(torch.empty(size, size))
        self.outward_bias = nn.Parameter(torch.empty(size))

    def init_own(self, generator: torch.Generator) -> None:
        # Codes of about unit size: at the usual 0.02 they would be so small that the maps learn nothing from them.
        for weight in (self.inward, self.outward):
            drawn = torch.empty(weight.shape, device="cpu").normal_(0.0, 1.0, generator=generator)
            weight.copy_(drawn / math.sqrt(weight.shape[1]))
        for bias in (self.inward_bias, self.outward_bias):
            bias.zero_()

    def forward(self, channels: Tensor | None) -> Tensor:
        facts = self.inward.new_zeros(1, 1, 2 * self.channels) if channels is None else self._facts(channels)
        code: Tensor = F.linear(F.silu(F.linear(facts, self.inward, self.inward_bias)), self.outward, self.outward_bias)
        return code

    def _facts(self, channels: Tensor) -> Tensor:
        """(B or 1, T or 1, 2 x channels): each from -1 to 1, then for each 1; both are 0 where it is unknown."""
        known = ~channels.isnan()
        if self.training and self.dropout > 0:
            known = known & self._kept(len(channels), channels.device)
        return torch.cat([torch.where(known, 2 * channels - 1, 0.0), known.to(channels.dtype)], -1)

    def _kept(self, rows: int, device: torch.device) -> Tensor:
        """(rows, 1, channels) bool: those that a row keeps."""
        fate, coins = torch.rand(rows, 1, 1, device=device), torch.rand(rows, 1, self.channels, device=device)
        return (fate >= 2 * self.dropout) | ((fate >= self.dropout) & (coins < 0.5))


class FiLM(nn.Module):
    """x (B, T, width) and a code (B or 1, T or 1, size) -> x * scale + shift, both linear in the code.

    It starts as the identity, exactly: the weights at 0, the biases at 1 and 0. Until the first update, therefore, the
    code gets no gradient.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(width, size))
        self.scale_bias = nn.Parameter(torch.empty(width))
        self.shift = nn.Parameter(torch.empty(width, size))
        self.shift_bias = nn.Parameter(torch.empty(width))

    def init_own(self, generator: torch.Generator) -> None:
        for parameter in (self.scale, self.shift, self.shift_bias):
            parameter.zero_()
        self.scale_bias.fill_(1.0)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        # Two products rather than one of twice the width: the backward pass need not join their gradients.
        scale, shift = F.linear(code, self.scale, self.scale_bias), F.linear(code, self.shift, self.shift_bias)
        return torch.addcmul(shift, x, scale)
