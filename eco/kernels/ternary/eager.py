"""The passes over memory of a ternary linear layer in plain torch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from eco.kernels.native import compute_dtype

EPS = 1e-8
"""Added to the mean |weight|, so that a block of zeros has codes of 0."""

LEAST = 1e-30
"""Least max|row| of activations: the inverse of a row of zeros stays finite."""


def ternarise(weight: Tensor, row_blocks: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """See `eco.kernels.ternary.ternarise`."""
    codes = torch.empty_like(weight, dtype=dtype)
    scales, sizes = [], list(row_blocks)
    for block, out in zip(torch.split(weight, sizes), torch.split(codes, sizes), strict=True):
        # In float64 the order of the sum, which differs between threads, does not show in the fp32 scale.
        total = torch.linalg.vector_norm(block, 1, dtype=torch.float64)
        scales.append((total / block.numel()).to(torch.promote_types(weight.dtype, torch.float32)))
        out.copy_((block * (scales[-1] + EPS).reciprocal()).round_().clamp_(-1, 1))
    return codes, torch.stack(scales)


def round_rows(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Integers up to 127, in fp16 their 128th parts, in `dtype` (n, D), and each row's step (n,), fp32 or wider.

    x is about codes * step.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    most = wide.abs().amax(1).clamp_min(LEAST)
    inverse = torch.full_like(most, 127.0) / most  # torch computes 127 / most as 127 times a rounded reciprocal
    codes, step = (wide * inverse[:, None]).round_(), most / 127
    if dtype == torch.float16:  # whose largest number a sum of D products of up to 127 soon exceeds
        codes, step = codes * 2.0**-7, step * 2.0**7
    return codes.to(dtype), step


def scale(x: Tensor, rows: Tensor | None, columns: Tensor | None, out: Tensor) -> None:
    """out = x * rows[:, None] * columns, rounded once; (n, m), (n,) and (m,); `out` may be x."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if rows is not None:
        wide = wide * rows[:, None]
    if columns is not None:
        wide = wide * columns
    out.copy_(wide)


def pack(codes: Tensor) -> Tensor:
    """See `eco.kernels.ternary.pack`."""
    rows, width = codes.shape
    quarter = -(-width // 4)
    padded = torch.nn.functional.pad(codes.to(torch.int8) + 1, (0, 4 * quarter - width), value=1)
    fields = padded.to(torch.uint8).view(rows, 4, quarter)
    return fields[:, 0] | fields[:, 1] << 2 | fields[:, 2] << 4 | fields[:, 3] << 6


def unpack(packed: Tensor, width: int) -> Tensor:
    """See `eco.kernels.ternary.unpack`."""
    fields = [(packed >> shift & 3).to(torch.int8) - 1 for shift in (0, 2, 4, 6)]
    return torch.cat(fields, 1)[:, :width]


def packed_linear(x: Tensor, packed: Tensor, columns: Tensor) -> Tensor:
    """See `eco.kernels.ternary.packed_linear`; columns: (rows,), the scale of each of the weight's rows."""
    dtype = compute_dtype(x)
    codes, step = round_rows(x, torch.promote_types(x.dtype, torch.float32))
    with torch.autocast(x.device.type, enabled=False):
        sums = codes @ unpack(packed, x.shape[1]).to(codes.dtype).T
    out = torch.empty_like(sums, dtype=dtype)
    scale(sums, step, columns, out)
    return out
