"""Muon's two passes over memory and its symmetric products: the formulas, on both paths, whatever the threads."""

from collections.abc import Callable

import pytest
import torch
from parity import error
from torch import Tensor

from eco.kernels.muon import look_ahead_, move_
from eco.kernels.muon import reference as muon
from eco.kernels.symmetric import reference as symmetric
from eco.kernels.symmetric import symmetric_product

DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(1, 1), (3, 5), (8, 16), (40, 33), (96, 1030)]
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 3e-3}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_threads(action: Callable[[], list[Tensor]]) -> list[list[Tensor]]:
    """What it answers with 1, 2 and 3 threads."""
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(action())
    finally:
        torch.set_num_threads(before)
    return found


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_looking_ahead_is_the_formulas(shape: tuple[int, int], dtype: torch.dtype) -> None:
    momentum, gradient, out = randn(*shape), randn(*shape, seed=1), torch.empty(shape, dtype=dtype)
    expected, ahead = muon.look_ahead(momentum.double(), gradient.double(), 0.9)
    largest = look_ahead_(momentum, gradient, 0.9, out)
    torch.testing.assert_close(momentum.double(), expected, rtol=1e-5, atol=1e-6)
    assert error(out.double(), ahead) < ROUNDING[dtype]
    assert largest.item() == pytest.approx(ahead.abs().max().item(), rel=4e-3)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_move_is_the_formulas(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight, factor, sizes = randn(*shape), randn(*shape, seed=1).to(dtype), 0.01 * randn(shape[0], seed=2)
    expected, length = muon.move(weight.double(), factor.double(), sizes.double(), 0.99)
    version = weight._version
    norm = move_(weight, factor, sizes, 0.99)
    torch.testing.assert_close(weight.double(), expected, rtol=1e-5, atol=1e-6)
    assert norm.item() == pytest.approx(length.item(), rel=1e-5)
    assert weight._version > version


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_stand_apart_and_gradients_that_are_not_contiguous(dtype: torch.dtype) -> None:
    momentum, gradient, joint = randn(6, 20), randn(20, 6, seed=1), torch.full((6, 40), 7.0, dtype=dtype)
    _, ahead = muon.look_ahead(momentum.double(), gradient.mT.double(), 0.9)
    look_ahead_(momentum, gradient.mT, 0.9, joint[:, 20:])
    assert error(joint[:, 20:].double(), ahead) < ROUNDING[dtype]
    assert (joint[:, :20] == 7).all()
    weight, sizes = randn(6, 20, seed=2), torch.ones(()).expand(6)
    expected, _ = muon.move(weight.double(), joint[:, 20:].double(), sizes.double(), 0.9)
    move_(weight, joint[:, 20:], sizes, 0.9)
    torch.testing.assert_close(weight.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e-30, 1e10, 1e25])
def test_the_greatest_element_neither_under_nor_overflows(size: float, dtype: torch.dtype) -> None:
    gradient, out = size * randn(8, 40), torch.empty(8, 40, dtype=dtype)
    largest = look_ahead_(torch.zeros(8, 40), gradient, 0.9, out)
    assert largest.item() == pytest.approx((0.19 * gradient).abs().max().item(), rel=4e-3)


@pytest.mark.usefixtures("path")
def test_a_nan_is_seen() -> None:
    gradient, out = randn(4, 40), torch.empty(4, 40)
    gradient[2, 39] = torch.nan
    look_ahead_(torch.zeros(4, 40), gradient, 0.9, out)
    assert out[2, 39].isnan()
    weight = randn(4, 40)
    assert move_(weight, out, torch.ones(4), 0.9).isnan()
    assert weight[2, 39].isnan()


def test_threads_change_no_bit_of_the_passes() -> None:
    def action() -> list[Tensor]:
        momentum, out, weight = randn(300, 700), torch.empty(300, 700, dtype=torch.bfloat16), randn(300, 700, seed=2)
        largest = look_ahead_(momentum, randn(300, 700, seed=1), 0.9, out)
        return [momentum, out, largest, move_(weight, out, randn(300, seed=3), 0.99), weight]

    first, *others = with_threads(action)
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 96, 32), (2, 64, 544), (1, 160, 1088), (2, 24, 40), (2, 64, 48)])
def test_a_symmetric_product_is_the_formulas(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    a = randn(*shape).to(dtype)
    product = symmetric_product(a, a)
    assert product.dtype == dtype
    assert error(product.double(), symmetric.symmetric_product(a.double(), a.double())) < ROUNDING[dtype]
    assert dtype == torch.float32 or torch.equal(product, product.mT)
    turned = a.mT.contiguous().mT  # the same numbers, columns first
    assert error(symmetric_product(turned, turned).double(), product.double()) < ROUNDING[dtype]


@pytest.mark.usefixtures("path")
def test_a_symmetric_product_of_two_matrices() -> None:
    p, g = (x @ x.mT for x in (randn(2, 96, 96), randn(2, 96, 96, seed=1)))
    p, left = p.bfloat16(), p.bfloat16() @ g.bfloat16()
    expected = p.double() @ g.bfloat16().double() @ p.double()
    assert error(symmetric_product(left, p).double(), expected) < 1e-2


def test_threads_change_no_bit_of_a_symmetric_product() -> None:
    a = randn(3, 160, 192).bfloat16()
    first, *others = with_threads(lambda: [symmetric_product(a, a)])
    assert all(torch.equal(first[0], other[0]) for other in others)
