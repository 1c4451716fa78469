"""How good the answers of a batch of puzzles are."""

from typing import NamedTuple

from torch import Tensor

from eco.models.contract import IGNORE


class Grades(NamedTuple):
    """One grade for each row, all (B,). A row without any target is not `asked`, and its other grades mean nothing."""

    asked: Tensor
    right: Tensor
    """bool: every cell."""
    cell_accuracy: Tensor
    """fp32: the share of its cells."""


def grade(logits: Tensor, targets: Tensor) -> Grades:
    """logits: (B, L, V), of which the largest is the answer; targets: (B, L) int64, IGNORE where none."""
    cells = (targets != IGNORE).sum(-1)
    hits = (logits.argmax(-1) == targets).sum(-1)  # IGNORE is no token, so never a hit
    return Grades(cells > 0, hits == cells, hits / cells.clamp(min=1))
