"""The orthogonal factor, against the singular value decomposition."""

import pytest
import torch
from torch import Tensor

from eco.optim.parts.polar import STEPS, orthogonalise


def exact(matrix: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


def with_spectrum(rows: int, columns: int, values: Tensor) -> Tensor:
    """A random matrix with the given singular values."""
    generator = torch.Generator().manual_seed(rows * columns)
    left = torch.linalg.qr(torch.randn(rows, len(values), generator=generator))[0]
    right = torch.linalg.qr(torch.randn(columns, len(values), generator=generator))[0]
    return (left * values) @ right.T


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 64), (64, 256), (256, 64), (96, 100)])
@pytest.mark.parametrize("smallest", [1.0, 0.1, 0.02])
def test_singular_values_end_near_one(shape: tuple[int, int], smallest: float, dtype: torch.dtype) -> None:
    matrix = with_spectrum(*shape, torch.logspace(0, float(torch.tensor(smallest).log10()), min(shape)))
    matrix = matrix / matrix.norm()
    result = orthogonalise(matrix[None].to(dtype))[0].float()
    assert result.shape == matrix.shape
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    along = (u.T @ result @ vh.T).diagonal()
    assert along.min() > 0.7 and along.max() < 1.25
    assert torch.linalg.svdvals(result).max() < 1.25
    assert (result - exact(matrix)).norm() / min(shape) ** 0.5 < 0.25


def test_is_no_worse_than_five_steps_of_the_first_muon() -> None:
    for rows, columns in [(128, 128), (128, 512)]:
        matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows + columns))
        target = exact(matrix)
        ours = orthogonalise((matrix / matrix.norm()).bfloat16()[None])[0].float()
        theirs = (matrix / matrix.norm()).bfloat16()
        for _ in range(5):
            gram = theirs @ theirs.T
            theirs = 3.4445 * theirs + (-4.7750 * gram + 2.0315 * gram @ gram) @ theirs
        assert (ours - target).norm() < 1.1 * (theirs.float() - target).norm()


def test_each_matrix_of_a_stack_is_done_by_itself() -> None:
    stack = torch.randn(5, 32, 96, generator=torch.Generator().manual_seed(0))
    together = orthogonalise(stack)
    for matrix, result in zip(stack, together, strict=True):
        torch.testing.assert_close(orthogonalise(matrix[None])[0], result, rtol=1e-4, atol=1e-5)


def test_zero_stays_zero() -> None:
    assert torch.equal(orthogonalise(torch.zeros(2, 8, 16)), torch.zeros(2, 8, 16))


def test_the_steps_are_minimax_on_their_intervals() -> None:
    """The composition keeps [0.003, 1] within 1 +- 0.26, then 5 % less: what the docstring of the constants says."""
    x = torch.logspace(-2.5229, 0, 20_000, dtype=torch.float64)
    for a, b, c in STEPS:
        x = a * x + b * x**3 + c * x**5
    x = x / 0.95
    assert x.min() > 0.74 and x.max() < 1.26
