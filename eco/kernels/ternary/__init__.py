"""Linear layers whose weights are -1, 0 or 1 times a scale: BitNet b1.58 (arXiv 2402.17764, 2504.12285).

Weights and gradients stay fp32; only the product sees codes. Rounding passes gradients straight through.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from eco.kernels.native import compute_dtype
from eco.kernels.ternary import cpu, eager
from eco.kernels.ternary.linear import linear
from eco.kernels.triton import usable as usable_by_triton

FEW_ROWS = 16
"""Up to as many rows of x the packed weights are worth unpacking again for each product."""


class Ternary(NamedTuple):
    """A weight as codes: block b of its rows is about `scale[b] * codes`.

    codes: (rows, D), -1, 0 and 1 in the dtype of the products; scale: (blocks,), the mean |weight| of each block.
    """

    codes: Tensor
    scale: Tensor


def ternarise(weight: Tensor, row_blocks: Sequence[int], dtype: torch.dtype) -> Ternary:
    """clip(round(weight / gamma), -1, 1) and gamma, the mean |weight|, of each block of rows (arXiv 2402.17764).

    weight: (rows, D) fp32; row_blocks: the rows of each block, which add up to `rows`; dtype: that of the codes. The
    result does not depend on the number of threads.
    """
    passes = cpu if weight.dtype == torch.float32 and cpu.able(weight, dtype) else eager
    return Ternary(*passes.ternarise(weight.detach(), row_blocks, dtype))


def ternary_linear(
    x: Tensor,
    weight: Tensor,
    ternary: Ternary,
    row_blocks: Sequence[int],
    *,
    offsets: Tensor | None = None,
) -> Tensor:
    """x times the transposed ternary weight; with gradients for `x` and, as if it had not been rounded, for `weight`.

    x: (n, D), normalised by the caller; each row is rounded to 255 steps between -max|row| and max|row| (BitNet's
    int8). weight: (rows, D) fp32, `ternary` what `ternarise` makes of it in autocast's dtype. Returns (n, rows) in that
    dtype.

    offsets: (E + 1,) integers, from 0 to n; the rows offsets[e] to offsets[e + 1] of x meet only the e-th of E equal
    groups of the weight's rows (an expert). Returns (n, rows / E).
    """
    assert ternary.codes.dtype == compute_dtype(x), (ternary.codes.dtype, compute_dtype(x))
    columns = by_row(ternary.scale, row_blocks)
    passes: ModuleType = cpu if cpu.able(x, ternary.codes.dtype) else eager
    return linear(x, weight, ternary.codes, columns, offsets, passes)


def pack(codes: Tensor) -> Tensor:
    """(rows, D) of -1, 0, 1 -> uint8 (rows, Q), Q = ceil(D / 4): byte j of a row holds codes j, Q + j, 2Q + j, 3Q + j.

    Two bits each, the first lowest, a code plus one; what is beyond D is packed as 0.
    """
    return cpu.pack(codes) if cpu.able(codes, codes.dtype) else eager.pack(codes)


def unpack(packed: Tensor, width: int) -> Tensor:
    """The int8 codes (rows, width) that `pack` packed."""
    return eager.unpack(packed, width)


def unpacks(x: Tensor) -> bool:
    """Whether `packed_linear` is the better way for these rows: few of them, where there is a kernel for it."""
    dtype = compute_dtype(x)
    return len(x) <= FEW_ROWS and (cpu.able(x, dtype) or usable_by_triton(x, dtype=dtype))


def packed_linear(x: Tensor, packed: Tensor, columns: Tensor) -> Tensor:
    """What `ternary_linear` computes, from packed weights and without gradients.

    x: (n, D); packed: (rows, ceil(D / 4)) of `pack`; columns: (rows,) of `by_row`. Returns (n, rows) in autocast's
    dtype. The sums are exact integers, so in fp32 the result is the same bit for bit; in bf16 it is rounded only once.
    """
    if usable_by_triton(x, packed, columns, dtype=compute_dtype(x)):
        from eco.kernels.ternary import triton  # imports Triton

        return triton.packed_linear(x, packed, columns)
    if cpu.able(x, compute_dtype(x)):
        return cpu.packed_linear(x, packed, columns)
    return eager.packed_linear(x, packed, columns)


def by_row(scale: Tensor, row_blocks: Sequence[int]) -> Tensor:
    """(blocks,) -> (rows,): the scale of each row's block."""
    counts = torch.tensor(row_blocks, device=scale.device)
    return scale.repeat_interleave(counts, output_size=sum(row_blocks))
