"""The orthogonal factor of many matrices at once: U V^T of U S V^T, by matrix products alone.

Polar Express (Amsel et al., arXiv 2505.16932): each step applies the odd polynomial of degree five that, on the
interval in which the singular values can lie by then, stays closest to 1. Two things make it cheaper than the five
steps of the first Muon at no worse an error:

- The start divides by ||X X^T||_F^(1/2), the fourth-power norm of the singular values, instead of ||X||_F: also a bound
  of the largest one, but up to m^(1/4) closer to it. That is worth one step, so four do.
- Two steps share one pass over a long matrix: with G = X X^T and P = p(G), the next Gram matrix is P G P, and only the
  product of both polynomials is applied to X. Longer chains lose the small singular values to bf16's rounding.
"""

import torch
from torch import Tensor

STEPS = (
    (7.5678, -21.5502, 15.8011),
    (3.9630, -3.0947, 0.6223),
    (3.5790, -2.6815, 0.5323),
    (2.3869, -1.6303, 0.3469),
)
"""(a, b, c) of x <- a x + b x^3 + c x^5. Each is minimax: the first on [0.003, 1], the next on the image of the one
before, its upper end raised by 5 % because beyond it the polynomial runs away and bf16 rounds that far; and no interval
starts below 0.024 of its end, as the paper proposes. Singular values from 0.003 to 1 would end within 1 +- 0.26; the
last step is shortened by 5 %, so that they end between 0.7 and 1.2."""

LONG = 1.5
"""From this ratio of the sides on, two steps at a time save products: 4 r + 2 each singly, 2 r + 5 in pairs."""

MARGIN = 1.02
"""Keeps the singular values below 1, bf16's rounding of the Gram matrix included."""


def orthogonalise(matrices: Tensor) -> Tensor:
    """U V^T of each matrix of a stack (N, rows, columns), to about 20 % in each singular value.

    matrices: bf16 or fp32, in which all products are done; scaled to a Frobenius norm of about 1, so that no square
        underflows. A matrix of zeros stays zero.
    """
    rows, columns = matrices.shape[-2:]
    at_once = 2 if max(rows, columns) >= LONG * min(rows, columns) else 1
    x = matrices
    for first in range(0, len(STEPS), at_once):
        gram = x.mT @ x if rows > columns else x @ x.mT
        scale = _inverse_bound(gram) if first == 0 else None
        if scale is not None:
            _scale(gram, scale.square())
        factor = _composed(gram, STEPS[first : first + at_once])
        if scale is not None:
            _scale(factor, scale)
        x = x @ factor if rows > columns else factor @ x
    return x


def _inverse_bound(gram: Tensor) -> Tensor:
    """One over an upper bound of the largest singular value, fp32 (N, 1, 1), from the Gram matrices (N, m, m)."""
    norms = [torch.linalg.matrix_norm(part, dtype=torch.float32, keepdim=True) for part in _portions(gram)]
    inverse: Tensor = (torch.cat(norms).sqrt() * MARGIN).clamp_min(1e-12).reciprocal()
    return inverse


def _scale(matrices: Tensor, factors: Tensor) -> None:
    """Multiplies each of (N, m, m) by its factor (N, 1, 1) fp32, in place, rounded once."""
    for part, factor in zip(_portions(matrices), _portions(factors), strict=True):
        torch.mul(part, factor, out=part)


def _portions(stack: Tensor) -> tuple[Tensor, ...]:
    """On a CPU one matrix at a time: where dtypes meet, torch copies all it is given, and the copy should be cached."""
    return torch.split(stack, 1) if stack.device.type == "cpu" else (stack,)


def _composed(gram: Tensor, steps: tuple[tuple[float, float, float], ...]) -> Tensor:
    """The matrix (N, m, m) that does all `steps` to a matrix with this Gram matrix."""
    total = step = _polynomial(gram, steps[0])
    for coefficients in steps[1:]:
        gram = step @ gram @ step
        step = _polynomial(gram, coefficients)
        total = step @ total
    return total


def _polynomial(gram: Tensor, coefficients: tuple[float, float, float]) -> Tensor:
    """a I + b G + c G^2."""
    a, b, c = coefficients
    result = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    result.diagonal(dim1=-2, dim2=-1).add_(a)
    return result
