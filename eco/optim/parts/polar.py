"""The orthogonal factor of many matrices at once: U V^T of U S V^T, by matrix products alone.

Polar Express (Amsel et al., arXiv 2505.16932): each step applies the odd polynomial of degree five that, on the
interval in which the singular values can lie by then, stays closest to 1. Four things make it cheaper than the five
steps of the first Muon at no worse an error:

- The start divides by ||X X^T||_F^(1/2), the fourth-power norm of the singular values, instead of ||X||_F: also a bound
  of the largest one, but up to m^(1/4) closer to it. That is worth one step, so four do.
- Two steps share one pass over a long matrix: with G = X X^T and P = p(G), the next Gram matrix is P G P, and only the
  product of both polynomials is applied to X. Longer chains lose the small singular values to bf16's rounding.
- G, its polynomial and P G P are symmetric: the kernel computes half of each.
- The square is completed and the scale chosen so that p(G) = (G + s I)^2 + t I: nothing but a diagonal is ever added.
"""

import torch
from torch import Tensor

from eco.kernels.symmetric import symmetric_product

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
"""From this ratio of the sides on, two steps at a time save products: 4 r + 2 singly, 2 r + 5 in pairs. With half of
the symmetric ones it is 3 r + 1 and 1.5 r + 3.5, nearly the same bound."""

MARGIN = 1.02
"""Keeps the singular values below 1, bf16's rounding of the Gram matrix included."""


def _squares(steps: tuple[tuple[float, float, float], ...]) -> tuple[float, list[tuple[float, float]]]:
    """(k, [(shift, rest), ...]) so that k x, and then ((x^2 + shift)^2 + rest) x for each step, ends where they do."""
    scale, squares = 1.0, []
    for a, b, c in reversed(steps):
        scale = (c * scale) ** 0.2
        shift = b / (2 * c)
        squares.append((scale**2 * shift, scale**4 * (a / c - shift**2)))
    return scale, squares[::-1]


SCALE, SQUARES = _squares(STEPS)


def orthogonalise(matrices: Tensor) -> Tensor:
    """U V^T of each matrix of a stack (N, rows, columns), to about 20 % in each singular value.

    matrices: bf16 or fp32, in which all products are done; scaled to a greatest element of about 1, so that no square
        under- or overflows. A matrix of zeros stays zero.
    """
    rows, columns = matrices.shape[-2:]
    at_once = 2 if max(rows, columns) >= LONG * min(rows, columns) else 1
    x = matrices
    for first in range(0, len(STEPS), at_once):
        wide = x.mT if rows > columns else x
        gram = symmetric_product(wide, wide)
        if first == 0:
            scale = _scale(gram)
            _multiply(gram, scale.square())
        factor = _composed(gram, SQUARES[first : first + at_once])
        if first == 0:
            _multiply(factor, scale)
        x = x @ factor if rows > columns else factor @ x
    return x


def _scale(gram: Tensor) -> Tensor:
    """SCALE over an upper bound of the largest singular value, fp32 (N,), from the Gram matrices (N, m, m)."""
    if gram.device.type == "cpu":  # torch is fast where it reduces all it is given
        norms = torch.stack([torch.linalg.vector_norm(matrix) for matrix in gram])
    else:
        norms = torch.linalg.matrix_norm(gram)
    return SCALE / (norms.float().sqrt() * MARGIN).clamp_min(1e-12)


def _multiply(matrices: Tensor, factors: Tensor) -> None:
    """Each of (N, m, m) by its factor (N,) fp32, in place, rounded once."""
    if matrices.device.type == "cpu":  # a scalar of another dtype is the only one for which torch copies nothing
        for matrix, factor in zip(matrices, factors, strict=True):
            matrix.mul_(factor)
    else:
        matrices.mul_(factors[:, None, None])


def _composed(gram: Tensor, squares: list[tuple[float, float]]) -> Tensor:
    """The matrix (N, m, m) that does all steps to a matrix with this Gram matrix."""
    total = step = _polynomial(gram, *squares[0])
    for shift, rest in squares[1:]:
        gram = symmetric_product(step @ gram, step)
        step = _polynomial(gram, shift, rest)
        total = step @ total
    return total


def _polynomial(gram: Tensor, shift: float, rest: float) -> Tensor:
    """(G + shift I)^2 + rest I."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    kept = diagonal.clone()
    diagonal.add_(shift)
    result = symmetric_product(gram, gram)
    diagonal.copy_(kept)
    result.diagonal(dim1=-2, dim2=-1).add_(rest)
    return result
