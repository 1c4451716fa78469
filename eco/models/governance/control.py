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
"""The metadata of a token, numbers from 0 to 1 in this order.

quality, alignment: what the corpus says of the document, as shares of 10. priority: see `PRIORITIES`. decay: how fast
older text loses weight; of a document, the mean of quality and alignment. position: tokens since the document began, as
a share of the model's context and at most 1, which says nothing of the document's length.
"""

PRIORITIES = {"high": 0.9, "medium": 0.6, "low": 0.3}
UNKNOWN = 0.5
"""Quality, alignment or priority of a document of which it is not known."""


class Control(nn.Module):
    """Metadata (B or 1, T or 1, channels) in [0, 1] -> their code (B or 1, T or 1, size), by a two-layer MLP.

    Without metadata the code is a learned one, (1, 1, size); so is that of tokens where they are NaN. In training whole
    rows are left without with probability `dropout`, drawn from torch's default generator.
    """

    def __init__(self, channels: int, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.inward = nn.Parameter(torch.empty(size, channels))
        self.inward_bias = nn.Parameter(torch.empty(size))
        self.outward = nn.Parameter(torch.empty(size, size))
        self.outward_bias = nn.Parameter(torch.empty(size))
        self.null = nn.Parameter(torch.empty(size))

    def init_own(self, generator: torch.Generator) -> None:
        # Codes of about unit size: at the usual 0.02 they would be so small that the maps learn nothing from them.
        for weight in (self.inward, self.outward):
            drawn = torch.empty(weight.shape, device="cpu").normal_(0.0, 1.0, generator=generator)
            weight.copy_(drawn / math.sqrt(weight.shape[1]))
        for vector in (self.inward_bias, self.outward_bias, self.null):
            vector.zero_()

    def forward(self, channels: Tensor | None) -> Tensor:
        if channels is None:
            return self.null[None, None]
        known = ~channels.isnan().any(-1, keepdim=True)
        if self.training and self.dropout > 0:
            known = known & (torch.rand(len(channels), 1, 1, device=channels.device) >= self.dropout)
        centred = 2 * channels.nan_to_num(0.5) - 1
        code = F.linear(F.silu(F.linear(centred, self.inward, self.inward_bias)), self.outward, self.outward_bias)
        return torch.where(known, code, self.null.to(code.dtype))


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
