"""The grouped product against one float64 product per group, and torch's own kernel against ours."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import error, run
from torch import Tensor

from eco.kernels.grouped import gpu, grouped_linear
from eco.models.layers.linear import StackedLinear

SIZES = {"even": [3, 3, 3], "holes": [0, 5, 0, 0, 2, 0], "one-takes-all": [0, 0, 7], "single": [4]}
GROUPS = st.lists(st.integers(0, 5), min_size=1, max_size=6)


def offsets_of(sizes: list[int]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(sizes)], dtype=torch.int32)


def reference(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    groups = weight.view(len(offsets) - 1, -1, x.shape[1])
    pairs = zip(itertools.pairwise(offsets.tolist()), groups, strict=True)
    return torch.cat([torch.einsum("nd,fd->nf", x[start:end], group) for (start, end), group in pairs])


def inputs_of(sizes: list[int], width: int = 8, features: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(sizes))
    x = torch.randn(sum(sizes), width, generator=generator)
    weight = torch.randn(len(sizes) * features, width, generator=generator)
    return [x, weight, offsets_of(sizes)]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize(
    "dtype, tolerance",
    [(torch.float64, 1e-15), (torch.float32, 1e-6), (torch.bfloat16, 4e-3)],
    ids=["float64", "float32", "bfloat16"],
)
def test_values_and_gradients(sizes: list[int], dtype: torch.dtype, tolerance: float) -> None:
    inputs = [z.to(dtype) if z.is_floating_point() else z for z in inputs_of(sizes)]
    expected = run(reference, inputs, torch.float64)
    for found, right in zip(run(grouped_linear, inputs), expected, strict=True):
        assert error(found, right) < tolerance


@settings(max_examples=40, deadline=None)
@given(sizes=GROUPS, width=st.integers(1, 9), features=st.integers(1, 9))
def test_any_groups(sizes: list[int], width: int, features: int) -> None:
    inputs = inputs_of(sizes, width, features)
    expected = run(reference, inputs, torch.float64)
    for found, right in zip(run(grouped_linear, inputs, torch.float64), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-13, atol=1e-13)


def test_gradients_by_finite_differences() -> None:
    x, weight, offsets = (z.double() if z.is_floating_point() else z for z in inputs_of([2, 0, 3], 3, 2))
    leaves = (x.requires_grad_(), weight.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: grouped_linear(a, b, offsets), leaves)


def test_a_group_without_rows_has_a_gradient_of_zero() -> None:
    x, weight, offsets = inputs_of([3, 0, 2], features=4)
    weight.requires_grad_()
    grouped_linear(x, weight, offsets).sum().backward()
    assert weight.grad is not None
    groups = weight.grad.view(3, -1)
    assert not groups[1].any() and groups[0].any() and groups[2].any()


def test_only_wanted_gradients() -> None:
    x, weight, offsets = inputs_of([3, 2])
    y = grouped_linear(x.requires_grad_(), weight, offsets)
    y.sum().backward()
    assert x.grad is not None and weight.grad is None


def test_under_autocast_products_are_bf16_and_gradients_fp32() -> None:
    x, weight, offsets = inputs_of([3, 2])
    leaves = x.requires_grad_(), weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = grouped_linear(x, weight, offsets)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert all(leaf.grad is not None and leaf.grad.dtype == torch.float32 for leaf in leaves)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_torchs_kernel_agrees(sizes: list[int]) -> None:
    """On the CPU too torch has it, which shows that layouts and offsets are what it expects."""
    inputs = [z.bfloat16() if z.is_floating_point() else z for z in inputs_of(sizes)]
    expected = run(reference, inputs, torch.float64)
    for found, right in zip(run(gpu.grouped_linear, inputs), expected, strict=True):
        assert error(found, right) < 4e-3


def test_stacked_linear_shares_its_weight_among_the_groups() -> None:
    x, weight, offsets = inputs_of([3, 0, 2], features=6)
    layer = StackedLinear(8, (2, 4) * 3, bias=False)
    layer.weight.data.copy_(weight)
    torch.testing.assert_close(layer.grouped(x, offsets), reference(x, weight, offsets), rtol=1e-6, atol=1e-6)
