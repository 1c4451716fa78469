"""One C3O step: the formula, plain torch and the C++ bit for bit, and sums that no thread changes."""

from dataclasses import asdict, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from eco.kernels import native
from eco.kernels.adamw import key
from eco.kernels.c3o import c3o_, change, cpu, eager, reference
from eco.kernels.c3o.layout import Layout, Run, layout
from eco.kernels.c3o.rule import REST, Rule, factors

RULE = Rule(lr=0.01, beta1=0.9, beta2=0.98, damping=1e-4, weight_decay=0.1, radius=0.15, count=3)
CPU = torch.device("cpu")
SHAPES = {
    "one element": [0, 1],
    "one block": [0, 31],
    "runs of two lengths": [0, 24, 48, 72, 77],
    "blocks of several pieces": [0, 10_000, 20_000, 23_000],
    "many blocks": [*range(0, 70_001, 1000), 70_001],
}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tensors(offsets: list[int], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Weight, gradient, moments and scales of realistic sizes."""
    size = offsets[-1]
    moments = [1e-3 * randn(size, seed=2), 1e-6 * randn(size, seed=3).square()]
    scales = (0.4 * randn(len(offsets) - 1, seed=4)).exp().clamp(0.6, 1.8)
    return [0.02 * randn(size), 1e-3 * randn(size, seed=1), *(x.to(dtype) for x in moments), scales]


def laid(offsets: list[int]) -> Layout:
    return layout(torch.tensor(offsets), CPU)


def test_a_layout_walks_every_element_once() -> None:
    at = laid(SHAPES["blocks of several pieces"])
    assert at.runs == (Run(0, 2, 10_000), Run(20_000, 1, 3000))
    assert at.pieces.tolist() == [0, 4096, 8192, 10_000, 14_096, 18_192, 20_000, 23_000]
    assert at.owner.tolist() == [0, 0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize("radius", [0.15, 1e3])
@pytest.mark.parametrize("name", SHAPES)
def test_one_step_is_the_formulas(path: str, name: str, radius: float) -> None:
    rule = replace(RULE, radius=radius)
    weight, gradient, mean, square, scales = tensors(SHAPES[name])
    old = [x.double() for x in (weight, gradient, mean, square)]
    expected = reference.c3o(*old, scales.tolist(), SHAPES[name], **asdict(rule), rest=REST)
    c3o_(weight, gradient, mean, square, scales, laid(SHAPES[name]), rule, 5)
    for found, right in zip((weight, mean, square), expected, strict=True):
        torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-8)  # weights of 0.1 have steps of 7e-9


def test_the_formula_is_adams_where_nothing_limits_it() -> None:
    offsets = [0, 40]
    weight, gradient = 0.02 * randn(40).double(), randn(40, seed=1).double()
    parameter = torch.nn.Parameter(weight.clone())
    adam = torch.optim.AdamW([parameter], lr=0.01, betas=(0.9, 0.98), eps=1e-4, weight_decay=0.1)
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for count in range(1, 5):
        parameter.grad = gradient * count
        adam.step()
        rule = asdict(replace(RULE, count=count, radius=1e9))
        weight, mean, square = reference.c3o(weight, gradient * count, mean, square, [1.7], offsets, **rule, rest=REST)
    torch.testing.assert_close(weight, parameter.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scales_of_one_are_no_scales_bit_for_bit(path: str, dtype: torch.dtype) -> None:
    offsets = SHAPES["runs of two lengths"]
    with_scales, without = tensors(offsets, dtype), tensors(offsets, dtype)
    ones = torch.ones(len(offsets) - 1)
    first = c3o_(*with_scales[:4], ones, laid(offsets), RULE, 1)
    second = c3o_(*without[:4], None, laid(offsets), RULE, 1)
    assert torch.equal(first, second)
    assert (ones == 1).all()
    assert all(torch.equal(a, b) for a, b in zip(with_scales[:4], without[:4], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scales_leave_the_norm_and_shift_the_shares(path: str, dtype: torch.dtype) -> None:
    offsets = SHAPES["runs of two lengths"]
    rule, at = replace(RULE, weight_decay=0.0), laid(offsets)
    plain, scaled = tensors(offsets, dtype), tensors(offsets, dtype)
    before = plain[0].clone()
    outcome = c3o_(*plain[:4], None, at, rule, 1)
    assert torch.equal(c3o_(*scaled[:4], scaled[4], at, rule, 1), outcome)
    moved = [(x[0] - before).double() for x in (plain, scaled)]
    for update in moved:
        assert update.norm().item() == pytest.approx(outcome[1].item(), rel=1e-5)
    for block, (begin, end) in enumerate(pairwise(offsets)):
        share = moved[1][begin:end].norm() / moved[0][begin:end].norm()
        assert share.item() == pytest.approx(scaled[4][block].item(), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_change_is_told_from_the_moments(path: str, dtype: torch.dtype) -> None:
    offsets = SHAPES["blocks of several pieces"]
    weight, gradient, mean, square, scales = tensors(offsets, dtype)
    before, rule = weight.clone(), replace(RULE, weight_decay=0.0)
    outcome = c3o_(weight, gradient, mean, square, scales, laid(offsets), rule, 5)
    told = change(mean, square, outcome[0], scales, laid(offsets), rule)
    assert torch.equal(before + told, weight)


def test_a_nan_is_seen(path: str) -> None:
    offsets = SHAPES["one block"]
    weight, gradient, mean, square, _ = tensors(offsets)
    gradient[3] = torch.nan
    c3o_(weight, gradient, mean, square, None, laid(offsets), RULE, 5)
    assert weight.isnan().any()


def test_sums_fold() -> None:
    x = torch.arange(1.0, 8.0)
    assert eager.halved(x) == 28
    assert eager.halved(torch.stack([x, 2 * x])).tolist() == [28, 56]
    assert eager.halved(torch.tensor([5.0])) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SHAPES)
def test_torch_and_cpp_agree_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    if native.library() is None:
        pytest.skip("no C++ kernels on this machine")
    at, ours, theirs = laid(SHAPES[name]), tensors(SHAPES[name], dtype), tensors(SHAPES[name], dtype)
    for count in range(1, 6):
        f = factors(replace(RULE, count=count, radius=0.1 * count), key(count, 3), at.pieces[-1].item())
        assert torch.equal(cpu.c3o_(*ours, at, f), eager.c3o_(*theirs, at, f))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_threads_change_no_bit(path: str) -> None:
    offsets, before, found = SHAPES["many blocks"], torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(tensors(offsets))
            c3o_(*found[-1], laid(offsets), RULE, 0)
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_step_counts_as_a_write(path: str) -> None:
    weight, *rest = tensors(SHAPES["one block"])
    version = weight._version
    c3o_(weight, *rest, laid(SHAPES["one block"]), RULE, 0)
    assert weight._version > version
