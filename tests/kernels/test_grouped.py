"""The grouped product against one float64 product per group, and torch's own kernel against ours."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import error, run
from torch import Tensor

from eco.kernels import native
from eco.kernels.grouped import combine_rows, cpu, gather_rows, gpu, grouped_linear
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


def rows_of(tokens: int, choices: int) -> tuple[Tensor, Tensor]:
    """The token of each of tokens * choices shuffled rows, and the rows (tokens, choices) of each token."""
    shuffled = torch.randperm(tokens * choices, generator=torch.Generator().manual_seed(3))
    return shuffled.argsort() // choices, shuffled.view(tokens, choices)


@pytest.mark.parametrize("tokens, choices, width", [(5, 2, 33), (1, 1, 16), (40, 3, 5), (7, 8, 64)])
def test_rows_to_tokens_and_back(tokens: int, choices: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp32 within 1e-6 of float64; in bf16 no worse than 1.1 times plain torch, which adds in fp32 too."""
    token, row = rows_of(tokens, choices)
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(tokens * choices, width, generator=generator)
    weights = torch.rand(tokens, choices, generator=generator)

    def written_out(x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        lines = zip(row.tolist(), weights, strict=True)
        return x[token], torch.stack([sum(w[i] * y[r] for i, r in enumerate(own)) for own, w in lines])

    def kernels(x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return gather_rows(x, token, row), combine_rows(y, weights, row)

    inputs = [y[:tokens], y, weights]
    expected = run(written_out, inputs, torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
        for found, right in zip(run(kernels, inputs, dtype), expected, strict=True):
            assert error(found, right) < tolerance
    rounded = [y[:tokens].bfloat16(), y.bfloat16(), weights]
    expected = run(written_out, [x.double() for x in rounded])
    ours = run(kernels, rounded)
    monkeypatch.setattr(native, "library", lambda: None)
    theirs = run(kernels, rounded)
    for mine, plain, right in zip(ours, theirs, expected, strict=True):
        assert error(mine, right) < 1.1 * error(plain, right) + 1e-6


def test_the_cpp_does_the_rows_of_a_training_step(cpp: None) -> None:
    y = torch.ones(4, 8)
    assert cpu.able(y.bfloat16(), torch.ones(2, 2)) and cpu.able(y, None)
    assert not cpu.able(y.double(), None) and not cpu.able(y.bfloat16(), torch.ones(2, 2).bfloat16())


def test_rows_have_the_same_bits_for_any_number_of_threads() -> None:
    token, row = rows_of(300, 2)
    y, weights = torch.randn(600, 24, generator=torch.Generator().manual_seed(0)), torch.rand(300, 2)

    def gradients() -> list[Tensor]:
        return run(lambda y, w: combine_rows(gather_rows(y[:300], token, row) * y, w, row), [y, weights])

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        first = gradients()
        torch.set_num_threads(1)
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))
    finally:
        torch.set_num_threads(threads)
