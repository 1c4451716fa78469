"""Principal directions against the singular value decomposition in float64."""

import torch
from torch import Tensor

from eco.models.instant.low_rank import principal_directions, shares


def rows(count: int, width: int, decay: float) -> Tensor:
    """(count, width) whose singular values fall by the factor `decay`."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, width, generator=generator)).Q for n in (count, width))
    return left * decay ** torch.arange(width) @ right.mT


def test_directions_are_those_of_the_svd() -> None:
    x = rows(200, 40, decay=0.7)
    basis = principal_directions(x, 12)
    values = torch.linalg.svdvals(x.double()).square()
    torch.testing.assert_close(shares(x, basis).double(), values[:12] / values.sum(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(12), rtol=0, atol=1e-5)
    for rank in (1, 4, 8):  # the last few are mixed with those behind them
        left = x - x @ basis[:, :rank] @ basis[:, :rank].mT
        assert left.double().square().sum() <= 1.01 * values[rank:].sum() + 1e-6


def test_zeros_and_repetition() -> None:
    nothing = torch.zeros(10, 8)
    basis = principal_directions(nothing, 3)
    assert basis.isfinite().all() and torch.equal(shares(nothing, basis), torch.zeros(3))
    before = torch.get_rng_state()
    first, again = (principal_directions(rows(50, 16, 0.9), 4) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(before, torch.get_rng_state())
