"""Ternary linear layers: codes, exact products, straight-through gradients, packed weights, in torch and in C++."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import error, run
from torch import Tensor

from eco.kernels import native
from eco.kernels import ternary as ops
from eco.kernels.ternary import cpu, eager, reference

BLOCKS = (32, 16, 16)
WIDTHS = [5, 64, 97, 768]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights(width: int, seed: int = 1) -> Tensor:
    """(64, width), its blocks of different sizes, one of them zero."""
    w = randn(sum(BLOCKS), width, seed=seed)
    w[:32] *= 0.02
    w[32:48] = 0
    return w


def layer(
    x: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    blocks: tuple[int, ...] = BLOCKS,
) -> Tensor:
    codes = ops.ternarise(weight, blocks, native.compute_dtype(x))
    return ops.ternary_linear(x, weight, codes, blocks, offsets=offsets)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(params=["torch", "cpp"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test on both paths."""
    if request.param == "torch":
        monkeypatch.setattr(native, "library", lambda: None)
    else:
        request.getfixturevalue("cpp")
    return str(request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_codes_and_scale_are_those_of_the_paper(width: int, dtype: torch.dtype, path: str) -> None:
    weight = weights(width)
    codes, scale = ops.ternarise(weight, BLOCKS, dtype)
    expected, gamma = reference.ternarise(weight.double(), BLOCKS)
    assert codes.dtype == dtype and scale.dtype == torch.float32
    assert set(codes.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert torch.equal(codes.double(), expected)
    assert torch.equal(scale, gamma.float())


def test_torch_and_cpp_round_alike(cpp: None) -> None:
    for width in WIDTHS:
        x = randn(9, width) * 10 ** randn(9, 1, seed=2)
        x[3] = 0
        x[4] = torch.arange(width) % 256 - 128  # 255 steps meet many ties
        for rows, dtype in [(x, torch.float32), (x, torch.bfloat16), (x.bfloat16(), torch.bfloat16)]:
            for ours, theirs in zip(cpu.round_rows(rows, dtype), eager.round_rows(rows, dtype), strict=True):
                assert torch.equal(ours, theirs)
        for ours, theirs in zip(
            cpu.ternarise(weights(width), BLOCKS, torch.bfloat16),
            eager.ternarise(weights(width), BLOCKS, torch.bfloat16),
            strict=True,
        ):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("offsets", [None, [0, 3, 3, 10, 20]], ids=["all rows", "experts"])
@pytest.mark.parametrize("width", WIDTHS)
def test_values_and_straight_through_gradients(width: int, offsets: list[int] | None, path: str) -> None:
    bounds = None if offsets is None else torch.tensor(offsets, dtype=torch.int32)
    blocks = BLOCKS if offsets is None else (8, 8) * 4
    x, weight = randn(20, width), weights(width)
    x[5] = 0
    options = {"offsets": bounds, "blocks": blocks}
    expected = run(
        lambda a, b: reference.ternary_linear(a, b, blocks, bounds), [x, weight], torch.float64
    )  # the second expert has no rows: a gradient of zero
    for found, right in zip(run(partial(layer, **options), [x, weight]), expected, strict=True):
        assert error(found, right) < 2e-6

    def autocast(a: Tensor, b: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return layer(a, b, **options)

    rounded = x.bfloat16().float()
    expected = run(lambda a, b: reference.ternary_linear(a, b, blocks, bounds), [rounded, weight], torch.float64)
    found = run(autocast, [rounded, weight])
    for ours, right in zip(found, expected, strict=True):
        assert error(ours, right) < 0.01  # a few roundings to 8 bits
    if offsets is not None:
        assert found[2][16:32].abs().max() == 0


def test_products_of_codes_are_exact_integers(path: str) -> None:
    x, weight = randn(33, 768), randn(64, 768, seed=1)
    codes, scale = ops.ternarise(weight, (64,), torch.float32)
    rounded, step = eager.round_rows(x, torch.float32)
    sums = rounded.double() @ codes.double().T
    found = ops.ternary_linear(x, weight, ops.Ternary(codes, scale), (64,))
    assert torch.equal(found, sums.float() * step[:, None] * scale)


def test_rounded_activations_stay_within_half_a_step(path: str) -> None:
    x = randn(50, 300) * 10.0 ** torch.arange(-20, 30)[:, None]
    passes = cpu if path == "cpp" else eager
    codes, step = passes.round_rows(x, torch.float32)
    assert codes.abs().amax(1).eq(127).all() and torch.equal(codes, codes.round())
    assert ((codes * step[:, None] - x).abs() <= 0.5001 * step[:, None]).all()


def test_zeros_are_safe_and_nan_is_seen(path: str) -> None:
    x, weight = torch.zeros(3, 40), randn(8, 40)
    assert layer(x, weight, blocks=(8,)).abs().max() == 0
    x[1, 7] = torch.nan
    y = layer(x, weight, blocks=(8,))
    assert y[1].isnan().all() and y[::2].abs().max() == 0


def test_experts_are_separate_layers(path: str) -> None:
    x, weight, bounds = randn(20, 65), randn(64, 65, seed=1), torch.tensor([0, 7, 7, 9, 20])
    together = layer(x, weight, offsets=bounds, blocks=(8, 8) * 4)
    for e, (start, end) in enumerate(bounds.unfold(0, 2, 1).tolist()):
        alone = layer(x[start:end], weight[16 * e : 16 * e + 16], blocks=(8, 8))
        assert torch.equal(together[start:end], alone)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 16])
@pytest.mark.parametrize("width", [1, 3, *WIDTHS, 1001])
def test_packed_product_is_the_same_bit_for_bit(width: int, rows: int, path: str) -> None:
    x, weight = randn(rows, width), weights(width)
    codes, scale = ops.ternarise(weight, BLOCKS, torch.float32)
    columns = ops.by_row(scale, BLOCKS)
    assert torch.equal(ops.packed_linear(x, ops.pack(codes), columns), layer(x, weight))
    with torch.autocast("cpu", torch.bfloat16):
        found = ops.packed_linear(x.bfloat16(), ops.pack(codes.bfloat16()), columns)
    assert torch.equal(found, layer(x.bfloat16().float(), weight).bfloat16())


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 5), width=st.integers(1, 300), seed=st.integers(0, 2**31))
def test_unpacking_undoes_packing(rows: int, width: int, seed: int) -> None:
    codes = torch.randint(-1, 2, (rows, width), generator=torch.Generator().manual_seed(seed))
    packed = eager.pack(codes)
    assert packed.shape == (rows, -(-width // 4)) and packed.dtype == torch.uint8
    assert torch.equal(ops.unpack(packed, width), codes.to(torch.int8))
    assert torch.equal(ops.pack(codes.float()), packed) and torch.equal(ops.pack(codes.bfloat16()), packed)


def test_threads_change_no_bit(path: str) -> None:
    x, weight = randn(40, 768), randn(200, 768, seed=1)
    found = []
    for count in (1, 2, 3):
        with threads(count):
            codes, scale = ops.ternarise(weight, (150, 50), torch.float32)
            packed = ops.packed_linear(x[:5], ops.pack(codes), ops.by_row(scale, (150, 50)))
            found.append([codes, scale, packed, *run(partial(layer, blocks=(150, 50)), [x, weight])])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_backward_keeps_no_wide_activations(path: str) -> None:
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    x, weight = randn(64, 128).requires_grad_(), randn(32, 128, seed=1).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", torch.bfloat16):
        layer(x, weight, blocks=(32,))
    assert sum(t.nbytes for t in saved) < 2 * x.numel() + 2 * weight.numel() + 4 * (64 + 32) + 1
