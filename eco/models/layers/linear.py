"""Several projections of one input as one matrix product."""

from collections.abc import Sequence

from torch import nn


class StackedLinear(nn.Linear):
    """(..., width) -> (..., sum of `row_blocks`): the projections' outputs, one behind the other.

    `row_blocks` tells an optimizer that looks at whole matrices which rows are a matrix of their own.
    """

    def __init__(self, width: int, row_blocks: Sequence[int], *, bias: bool) -> None:
        super().__init__(width, sum(row_blocks), bias=bias)
        self.row_blocks = tuple(row_blocks)
