"""Stablemax cross-entropy against its definition in fp64; what its gradient and its padding are."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from eco.models.contract import IGNORE
from eco.models.layers.stablemax import stablemax_cross_entropy, stablemax_logits

FINITE = st.floats(-1e4, 1e4, width=32)


def scores(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, x + 1, 1 / (1 - np.minimum(x, 0)))


def defined(logits: Tensor, targets: Tensor) -> list[float]:
    """The rows' losses, cell by cell, as the paper writes them."""
    losses = []
    for row, labels in zip(logits.double().numpy(), targets.numpy(), strict=True):
        shares = [scores(x)[y] / scores(x).sum() for x, y in zip(row, labels, strict=True) if y != IGNORE]
        losses.append(float(-np.log(shares).mean()) if shares else 0.0)
    return losses


def drawn(scale: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = scale * torch.randn(5, 9, 11, generator=generator)
    targets = torch.randint(0, 11, (5, 9), generator=generator)
    targets[1, 4:] = IGNORE
    targets[3] = IGNORE
    return logits, targets


def test_fp32_is_the_definition_in_fp64_up_to_logits_of_ten_thousand() -> None:
    for scale in (1e-3, 1.0, 30.0, 3e3):
        logits, targets = drawn(scale)
        found = stablemax_cross_entropy(logits.clamp(-1e4, 1e4), targets)
        assert found.dtype == torch.float32
        expected = defined(logits.clamp(-1e4, 1e4), targets)
        torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=2e-6, atol=2e-6)


def test_bf16_logits_are_computed_in_fp32() -> None:
    logits, targets = drawn(5.0)
    rounded = logits.bfloat16()
    assert torch.equal(stablemax_cross_entropy(rounded, targets), stablemax_cross_entropy(rounded.float(), targets))


@given(FINITE, FINITE)
def test_a_larger_logit_scores_more(a: float, b: float) -> None:
    low, high = stablemax_logits(torch.tensor([min(a, b), max(a, b)], dtype=torch.float64))
    assert low < high if a != b else low == high


@given(FINITE)
def test_the_slope_is_one_over_one_plus_the_distance_from_zero(x: float) -> None:
    point = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(stablemax_logits(point), point)
    torch.testing.assert_close(slope, torch.tensor(1 / (1 + abs(x)), dtype=torch.float64))


def test_the_gradient_is_that_of_finite_differences() -> None:
    logits, targets = drawn(4.0)
    logits = logits[:, :3, :5].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: stablemax_cross_entropy(x, targets[:, :3].clamp(max=4)), logits)


def test_ignored_cells_have_neither_loss_nor_gradient() -> None:
    logits, targets = drawn(4.0)
    logits.requires_grad_()
    losses = stablemax_cross_entropy(logits, targets)
    losses.sum().backward()
    assert losses[3] == 0 and (losses[[0, 1, 2, 4]] > 0).all()
    assert logits.grad is not None
    assert torch.equal(logits.grad.abs().sum(-1) == 0, targets == IGNORE)
