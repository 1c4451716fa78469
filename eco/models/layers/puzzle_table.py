"""A learned vector for each puzzle, of which a batch touches few: the table takes no part in dense optimisation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class PuzzleTable(nn.Module):
    """Rows (B,) int64 -> vectors (B, width).

    `weight` (rows, width) carries `is_table = True` and asks for no gradient, so averaging, clipping and the dense
    optimizer pass it by. A forward pass with gradient still leaves one: a sparse COO tensor in `weight.grad` with the
    rows of the batch, those of several backward passes one behind the other and not yet added up (`coalesce`). An
    optimizer for tables updates only these rows.
    """

    weight: nn.Parameter

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width), requires_grad=False)
        self._mark()

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # a leaf with a hook cannot be part of a compiled graph
    def forward(self, rows: Tensor) -> Tensor:
        vectors = self.weight[rows]
        if torch.is_grad_enabled():
            vectors.requires_grad_()
            vectors.register_hook(partial(self._collect, rows))  # type: ignore[no-untyped-call]
        return vectors

    def _collect(self, rows: Tensor, gradient: Tensor) -> None:
        new = torch.sparse_coo_tensor(rows[None], gradient, self.weight.shape, check_invariants=False)
        self.weight.grad = new if self.weight.grad is None else self.weight.grad + new

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PuzzleTable":
        # A move between devices may put a new parameter in the old one's place.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._mark()
        return self

    def _mark(self) -> None:
        mark: Any = self.weight
        mark.is_table = True
