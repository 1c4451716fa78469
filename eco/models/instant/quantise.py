"""What is kept of a tensor: a part of low rank, and few bits of what is left of each number."""

from dataclasses import dataclass
from math import gcd
from typing import Self

import torch
from torch import Tensor

from eco.kernels.quantised import GROUP, Quantised, dequantise, quantise

COEFFICIENT_BITS = 8
"""Of the part of low rank. Its rounding is part of what is left, and so costs no exactness."""

_SAMPLE_GROUPS = 64
"""Groups of numbers by which an error is measured."""


@dataclass(frozen=True)
class Packed:
    """About `count` numbers of `dtype`: left + coefficients @ basis^T, read row by row."""

    left: Quantised
    coefficients: Quantised | None
    basis: Tensor | None
    count: int
    dtype: torch.dtype

    @classmethod
    def of(cls, x: Tensor, bits: int, basis: Tensor | None, key: int) -> tuple[Self, Tensor]:
        """Keeps x (n,), and measures the relative error that this makes, an fp32 scalar, by a sample.

        bits: of each number of what is left; basis: (D, k) in x's dtype, D divides n, or None for no part of low rank.
        Rounds stochastically by the hash of `key`, see `eco.kernels.quantised`.
        """
        coefficients, left = None, x
        if basis is not None:
            rows = x.view(-1, len(basis))
            # Other random bits than those of what is left, which depends on these.
            coefficients = quantise((rows @ basis).flatten(), COEFFICIENT_BITS, ~key & 0xFFFFFFFF)
            left = torch.addmm(rows, _read(coefficients, basis, x), basis.mT, alpha=-1).flatten()
        kept = quantise(left, bits, key)
        return cls(kept, coefficients, basis, len(x), x.dtype), _sampled_error(x, left, kept)

    def read(self) -> Tensor:
        """(count,), with the mean of what was kept."""
        left = dequantise(self.left, self.count, self.dtype)
        if self.basis is None or self.coefficients is None:
            return left
        rows = left.view(-1, len(self.basis))
        return rows.addmm_(_read(self.coefficients, self.basis, left), self.basis.mT).flatten()

    @property
    def bits(self) -> int:
        """Of each number of what is left."""
        return self.left.codes.shape[1] * 8 // GROUP

    @property
    def nbytes(self) -> int:
        parts = (self.left, self.coefficients, self.basis)
        return sum(part.nbytes for part in parts if part is not None)


def relative_error(x: Tensor, bits: int) -> float:
    """|what is read back - x| / |x| of x (n,) in `bits` for each number, without a part of low rank."""
    off = dequantise(quantise(x, bits, 0), len(x), torch.float32) - x
    return float(_relative(off, x.float()))


def _read(coefficients: Quantised, basis: Tensor, x: Tensor) -> Tensor:
    width, rank = basis.shape
    return dequantise(coefficients, len(x) // width * rank, x.dtype).view(-1, rank)


def _sampled_error(x: Tensor, left: Tensor, kept: Quantised) -> Tensor:
    """The error of some whole groups, spread over x."""
    groups = len(x) // GROUP
    every = max(1, groups // _SAMPLE_GROUPS)
    while gcd(every, groups) > 1:  # else only some places of a row would be looked at
        every += 1
    sample, exact = (part[: groups * GROUP].view(-1, GROUP)[::every].float() for part in (x, left))
    chosen = Quantised(*(part[:groups:every].contiguous() for part in kept))
    off = dequantise(chosen, exact.numel(), torch.float32).view_as(exact) - exact
    return _relative(off, sample)


def _relative(off: Tensor, x: Tensor) -> Tensor:
    error: Tensor = off.norm() / x.norm().clamp_min(torch.finfo(x.dtype).tiny)
    return error
