"""Products with packed ternary weights in Triton: activations rounded, weights unpacked, sums rescaled in one go.

A program rounds its rows of x itself, so what the other programs of these rows have computed is computed again, and no
rounded activations are ever written.
"""

import triton
import triton.language as tl
from torch import Tensor

from eco.kernels.native import compute_dtype
from eco.kernels.ternary.eager import LEAST

_COLUMNS, _BYTES = 64, 64
"""Rows of the weight, and bytes of each, that a program takes at a time."""


def packed_linear(x: Tensor, packed: Tensor, columns: Tensor) -> Tensor:
    """See `eco.kernels.ternary.packed_linear`."""
    x = x.contiguous()
    (n, width), rows = x.shape, len(packed)
    out = x.new_empty(n, rows, dtype=compute_dtype(x))
    tall = 16 if n <= 16 else 64
    _packed_linear[(triton.cdiv(n, tall), triton.cdiv(rows, _COLUMNS))](
        x, packed.contiguous(), columns.contiguous(), out, n, rows, width, packed.shape[1],
        LEAST=LEAST, ROWS=tall, COLUMNS=_COLUMNS, BYTES=_BYTES, num_stages=1,
        enable_fp_fusion=False,  # else the product below is rounded together with its sum, unlike elsewhere
    )  # fmt: skip
    return out


@triton.jit
def _packed_linear(
    x, packed, columns, out, n, rows, width, quarter,
    LEAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """x: (n, width); packed: (rows, quarter), byte j of a row holds codes j + f quarter, f < 4; columns: (rows,)."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    byte = tl.arange(0, BYTES)
    x += row[:, None] * width
    packed += column[None, :] * quarter

    most = tl.full([ROWS], LEAST, tl.float32)
    for first in range(0, width, BYTES):
        there = (row < n)[:, None] & (first + byte < width)[None, :]
        part = tl.load(x + (first + byte)[None, :], mask=there, other=0.0).to(tl.float32)
        most = tl.maximum(most, tl.max(tl.abs(part), 1))
    inverse = tl.div_rn(tl.full([ROWS], 127.0, tl.float32), most)

    sums = tl.zeros([ROWS, COLUMNS], tl.int32)
    for first in range(0, quarter, BYTES):
        at = first + byte
        there = (at < quarter)[:, None] & (column < rows)[None, :]
        fields = tl.load(packed + at[:, None], mask=there, other=0)
        for field in tl.static_range(4):
            place = field * quarter + at
            there = (row < n)[:, None] & ((at < quarter) & (place < width))[None, :]
            part = tl.load(x + place[None, :], mask=there, other=0.0).to(tl.float32)
            rounded = part * inverse[:, None] + 12582912.0 - 12582912.0  # 1.5 * 2^23: to the nearest, ties to even
            codes = ((fields >> (2 * field)) & 3).to(tl.int8) - 1
            sums += tl.dot(rounded.to(tl.int8), codes.to(tl.int8))

    step = tl.div_rn(most, tl.full([ROWS], 127.0, tl.float32))
    scales = tl.load(columns + column, mask=column < rows, other=0.0)
    result = sums.to(tl.float32) * step[:, None] * scales[None, :]
    there = (row < n)[:, None] & (column < rows)[None, :]
    tl.store(out + row[:, None] * rows + column[None, :], result.to(out.dtype.element_ty), mask=there)
