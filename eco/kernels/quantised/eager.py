"""Numbers in 4, 6 or 8 bits in plain torch, the hash in 64-bit integers."""

import torch
from torch import Tensor

from eco.kernels.adamw.rule import mix

GROUP = 128

LEAST_STEP = 1e-30
"""A group of numbers closer than this is its least number."""

_GROUPS = 1 << 17
"""At a time: the hash takes tens of bytes for each number."""


def quantise(x: Tensor, bits: int, key: int) -> tuple[Tensor, Tensor, Tensor]:
    """See `eco.kernels.quantised.quantise`. Each operation is rounded by itself, as in the C++."""
    parts = torch.split(x, GROUP * _GROUPS)
    found = [_quantise(part, bits, key, index * GROUP * _GROUPS) for index, part in enumerate(parts)]
    codes, low, step = (torch.cat(column) for column in zip(*found, strict=True))
    return codes, low, step


def dequantise(codes: Tensor, low: Tensor, step: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """See `eco.kernels.quantised.dequantise`."""
    if codes.shape[1] < GROUP:
        low4, high2 = codes[:, : GROUP // 2], codes[:, GROUP // 2 :]
        codes = torch.cat([low4 & 15, low4 >> 4], 1)
        if high2.shape[1]:
            codes = codes | torch.cat([(high2 >> 2 * quarter & 3) << 4 for quarter in range(4)], 1)
    x = (codes * step.float()[:, None]).add_(low.float()[:, None])
    return x.flatten()[:count].to(dtype)


def _quantise(x: Tensor, bits: int, key: int, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of numbers from index `first` on."""
    levels, missing = 2**bits - 1, -len(x) % GROUP
    wide = x.float()
    groups = torch.cat([wide, wide[-1:].expand(missing)]).view(-1, GROUP)
    low = _down(groups.amin(1) + (groups * 0).sum(1))  # an infinity times 0 is NaN
    span = groups.amax(1) - low
    step = _up(span * _inverse(levels))
    step = torch.where((groups.round() == groups).all(1) & (span <= levels), 1.0, step)
    inverse = torch.where(step >= LEAST_STEP, torch.ones_like(step) / step, 0.0)
    drawn = mix(torch.arange(first, first + groups.numel(), device=x.device) & 0xFFFFFFFF ^ key) >> 16
    places = (groups - low[:, None]) * inverse[:, None] + drawn.view_as(groups).float() * 2.0**-16
    codes = torch.where(places < levels, places, levels).to(torch.uint8)
    return _packed(codes, bits), low.bfloat16(), step.bfloat16()


def _packed(codes: Tensor, bits: int) -> Tensor:
    if bits == 8:
        return codes
    first, second = (codes & 15).chunk(2, 1)
    low4 = first | second << 4
    if bits == 4:
        return low4
    a, b, c, d = (codes >> 4).chunk(4, 1)
    return torch.cat([low4, a | b << 2 | c << 4 | d << 6], 1)


def _inverse(levels: int) -> Tensor:
    return torch.tensor(1 / levels, dtype=torch.float32)


def _down(x: Tensor) -> Tensor:
    """The next lower bf16 number, in fp32."""
    bits = x.view(torch.int32)
    return ((bits & -0x10000) + ((bits < 0) & (bits & 0xFFFF != 0)).int() * 0x10000).view(torch.float32)


def _up(x: Tensor) -> Tensor:
    return -_down(-x)
