"""One matrix product per group of rows: the experts of a mixture, each on the tokens that chose it."""

from torch import Tensor

from eco.kernels.grouped import eager, gpu


def grouped_linear(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """Rows offsets[e] to offsets[e + 1] of x times the transpose of the e-th of E equal row groups of `weight`.

    x: (n, D), sorted by group; weight: (E * F, D); offsets: (E + 1,) int32, from 0 to n. Returns (n, F) in autocast's
    dtype, outside autocast that of x. A group without rows has a gradient of zero.
    """
    return gpu.grouped_linear(x, weight, offsets) if gpu.able(x, weight) else eager.grouped_linear(x, weight, offsets)
