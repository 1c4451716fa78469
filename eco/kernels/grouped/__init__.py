"""What a mixture of experts is made of: rows sorted by expert, one product per group of rows, and the way back."""

from torch import Tensor

from eco.kernels.grouped import gpu, loop
from eco.kernels.grouped.rows import CombineRows, GatherRows


def grouped_linear(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """Rows offsets[e] to offsets[e + 1] of x times the transpose of the e-th of E equal row groups of `weight`.

    x: (n, D), sorted by group; weight: (E * F, D); offsets: (E + 1,) int32, from 0 to n. Returns (n, F) in autocast's
    dtype, outside autocast that of x. A group without rows has a gradient of zero.
    """
    return gpu.grouped_linear(x, weight, offsets) if gpu.able(x, weight) else loop.grouped_linear(x, weight, offsets)


def gather_rows(x: Tensor, token: Tensor, row: Tensor) -> Tensor:
    """x (N, W) -> (n, W): row r is x[token[r]].

    token: (n,) int64, n >= N * k; row: (N, k) int64, the k rows of each token, which the gradient is gathered from.
    """
    out: Tensor = GatherRows.apply(x, token, row)  # type: ignore[no-untyped-call]
    return out


def combine_rows(y: Tensor, weights: Tensor, row: Tensor) -> Tensor:
    """y (n, W), weights (N, k) -> (N, W): the sum over k of weights[:, k] * y[row[:, k]], in the dtype of y.

    row: (N, k) int64, in which a row of y occurs once or, with a gradient of zero, not at all.
    """
    out: Tensor = CombineRows.apply(y, weights, row)  # type: ignore[no-untyped-call]
    return out
