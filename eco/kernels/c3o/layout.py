"""How the blocks of a tensor are walked: runs of blocks of equal length, and pieces of bounded length."""

from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import NamedTuple

import torch
from torch import Tensor

PIECE = 4096
"""Elements whose squares are summed by themselves, at most: the sums depend neither on threads nor on the device."""
LINE = 256
"""Of them, so many are summed side by side, each in its place of the line."""


class Run(NamedTuple):
    """`blocks` blocks of `length` elements each, the first at element `begin`."""

    begin: int
    blocks: int
    length: int


@dataclass(frozen=True)
class Layout:
    """Of one tensor.

    blocks: how many. pieces: (k + 1,) int64 on the CPU, where each begins; none reaches beyond its block. owner: (k,)
    int64, the block of each, on the device of the tensor.
    """

    blocks: int
    runs: tuple[Run, ...]
    pieces: Tensor
    owner: Tensor


def layout(offsets: Tensor, device: torch.device) -> Layout:
    """offsets: (blocks + 1,) int64 from 0 to the number of elements, as `eco.optim.parts.blocks` makes them."""
    lengths = offsets.diff().tolist()
    sizes = [(len(list(equal)), length) for length, equal in groupby(lengths)]
    begins = accumulate((blocks * length for blocks, length in sizes), initial=0)
    runs = tuple(Run(begin, *size) for begin, size in zip(begins, sizes, strict=False))
    pieces, owner = [0], []
    for block, end in enumerate(accumulate(lengths)):
        while pieces[-1] < end:
            pieces.append(min(end, pieces[-1] + PIECE))
            owner.append(block)
    return Layout(len(lengths), runs, torch.tensor(pieces), torch.tensor(owner, device=device))
