"""Several projections of one input as one matrix product."""

from collections.abc import Sequence

from torch import Tensor, nn

from eco.kernels.grouped import grouped_linear


class StackedLinear(nn.Linear):
    """(..., width) -> (..., sum of `row_blocks`): the projections' outputs, one behind the other.

    `row_blocks` tells an optimizer that looks at whole matrices which rows are a matrix of their own. `unit_rows` tells
    one that looks at units, which are heads or experts, the rows of each; a layer with such units sets it.
    """

    def __init__(self, width: int, row_blocks: Sequence[int], *, bias: bool) -> None:
        super().__init__(width, sum(row_blocks), bias=bias)
        self.row_blocks = tuple(row_blocks)
        self.unit_rows: tuple[int, ...] = ()

    def grouped(self, x: Tensor, offsets: Tensor) -> Tensor:
        """(n, width) -> (n, rows / E): rows offsets[e] to offsets[e + 1] of x meet the e-th of E equal groups of rows.

        offsets: (E + 1,) int32. For layers without bias: the experts of a mixture.
        """
        assert self.bias is None
        return grouped_linear(x, self.weight, offsets)
