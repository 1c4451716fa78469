"""Numbers kept in 4, 6 or 8 bits, in groups with a grid of their own, rounded stochastically (ActNN, arXiv 2104.14129).

What is read back has the mean of what was kept, so that a gradient computed from it has no bias.
"""

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from eco.kernels.adamw.rule import mix
from eco.kernels.quantised import cpu, eager

GROUP = eager.GROUP
"""Numbers that share a grid."""


class Quantised(NamedTuple):
    """Numbers of which the i-th is about low[i // GROUP] + its code x step[i // GROUP].

    codes: (groups, GROUP x bits / 8) uint8. Of 8 bits, a byte each. Else the lowest 4 bits of a group's codes come
    first: byte j has those of codes j, in its lower half, and GROUP / 2 + j. Then, of 6 bits, the upper 2: byte j has
    those of codes j, GROUP / 4 + j and so on, the first lowest. low, step: (groups,) bf16.
    """

    codes: Tensor
    low: Tensor
    step: Tensor

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self)


@torch.no_grad()
def quantise(x: Tensor, bits: int, key: int) -> Quantised:
    """x (n,) float, in `bits` (4, 6 or 8) for each number and 32 for each group.

    The grid of a group reaches from its least number, rounded down, to its greatest. A group of integers that span at
    most 2^bits - 1 has a step of 1 and is kept exactly, if they are below 2^8 in size, as bf16 holds their least. A
    group with an infinity or a NaN is NaN.

    Each rounding draws 16 bits from a hash of `key` (32 bits) and the number's index. The result does not depend on
    the number of threads, and plain torch and the C++ agree bit for bit.
    """
    passes: ModuleType = cpu if cpu.able(x) else eager
    return Quantised(*passes.quantise(x, bits, mix(key)))


@torch.no_grad()
def dequantise(kept: Quantised, count: int, dtype: torch.dtype) -> Tensor:
    """The first `count` numbers that `kept` stands for, (count,), rounded to `dtype`."""
    passes: ModuleType = cpu if cpu.able(kept.low, dtype) else eager
    x: Tensor = passes.dequantise(kept.codes, kept.low, kept.step, count, dtype)
    return x
