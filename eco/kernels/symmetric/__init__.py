"""The product of two matrices that is known to be symmetric, for half of the arithmetic where the C++ does it."""

from torch import Tensor

from eco.kernels.symmetric import cpu, eager


def symmetric_product(a: Tensor, b: Tensor) -> Tensor:
    """a b^T of stacks (N, m, k), which must be symmetric: b is a, or a is b G with b and G symmetric. No gradients.

    Returns (N, m, m) in their dtype; where rounding left it not quite symmetric, the lower half may decide.
    """
    passes = cpu if cpu.able(a, b) else eager
    result: Tensor = passes.symmetric_product(a, b)
    return result
