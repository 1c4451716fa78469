"""Numbers in 4, 6 or 8 bits: as the reference says, without bias, integers exactly, the same bits on both paths."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eco.kernels.adamw.rule import mix
from eco.kernels.quantised import GROUP, Quantised, cpu, dequantise, eager, quantise, reference

WIDTHS = (4, 6, 8)


def randn(count: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)).to(dtype)


def codes_of(kept: Quantised) -> Tensor:
    """(groups, GROUP), without the format: grids that make the codes the numbers."""
    plain = kept._replace(low=torch.zeros_like(kept.low), step=torch.ones_like(kept.step))
    return dequantise(plain, len(kept.low) * GROUP, torch.float32).view(-1, GROUP)


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_reference(path: str, bits: int) -> None:
    x, key = randn(3 * GROUP), 17
    kept = quantise(x, bits, key)
    drawn = (mix(torch.arange(len(x)) ^ mix(key)) >> 16).double() / 2**16
    found = codes_of(kept)
    for group, (part, draws) in enumerate(zip(x.split(GROUP), drawn.split(GROUP), strict=True)):
        codes, low, step = reference.quantise(part.double(), bits, draws)
        assert kept.low[group] <= low and kept.low[group].item() == pytest.approx(low, rel=2**-7)
        assert kept.step[group].item() == pytest.approx(step, rel=0.03)
        # bf16 moves the ends of the grid by up to 1 %, and with them a code by a few, or one by its drawn number.
        assert (found[group] - torch.tensor(codes)).abs().max() <= 0.02 * 2**bits + 1


@pytest.mark.parametrize("bits", WIDTHS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_what_is_read_back_is_within_a_step(bits: int, data: st.DataObject) -> None:
    number = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)
    x = torch.tensor(data.draw(st.lists(number, min_size=1, max_size=300)))
    kept = quantise(x, bits, data.draw(st.integers(0, 2**32 - 1)))
    off = (dequantise(kept, len(x), torch.float32) - x).abs()
    step = kept.step.float().repeat_interleave(GROUP)[: len(x)]
    # a step, and what fp32 loses at the size of the numbers
    assert (off <= step * 1.001 + x.abs().max() * 2.0**-22 + 2e-30 * 2**bits).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", WIDTHS)
def test_integers_of_a_few_steps_are_exact(path: str, bits: int, dtype: torch.dtype) -> None:
    half = 2 ** (bits - 1) - 1
    x = torch.randint(-half, half + 1, (1000,), generator=torch.Generator().manual_seed(bits)).to(dtype)
    assert torch.equal(dequantise(quantise(x, bits, 5), len(x), dtype), x)


@pytest.mark.parametrize("bits", WIDTHS)
def test_rounding_has_no_bias(path: str, bits: int) -> None:
    x, count = randn(2 * GROUP), 1000
    kept = [quantise(x, bits, key) for key in range(count)]
    off = torch.stack([dequantise(one, len(x), torch.float32).double() - x for one in kept])
    step = kept[0].step.double().repeat_interleave(GROUP)
    # A code is off by less than a step, with a standard deviation of at most half of one.
    assert (off.mean(0).abs() < 5 * 0.5 * step / count**0.5).all()
    assert abs((off / step).mean()) < 5 * 0.5 / (count * len(x)) ** 0.5
    assert (off[:, 0] > 0).any() and (off[:, 0] < 0).any()


def test_a_number_that_is_none_spoils_its_group_alone(path: str) -> None:
    x = randn(3 * GROUP)
    x[GROUP], x[2 * GROUP + 7] = torch.inf, torch.nan
    found = dequantise(quantise(x, 4, 0), len(x), torch.float32).view(-1, GROUP)
    assert found[0].isfinite().all() and found[1:].isnan().all()


def test_equal_numbers_are_kept_in_the_mean(path: str) -> None:
    """0.3 is no number of bf16; between its neighbours the mean of many roundings is."""
    x = torch.full((64 * GROUP,), 0.3)
    assert abs(dequantise(quantise(x, 4, 3), len(x), torch.float32).mean() - 0.3) < 1e-5
    assert torch.equal(dequantise(quantise(0 * x, 4, 3), len(x), torch.float32), 0 * x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 100, GROUP, 1000, 40_000])
@pytest.mark.parametrize("bits", WIDTHS)
def test_both_paths_agree_bit_for_bit(cpp: None, bits: int, count: int, dtype: torch.dtype) -> None:
    scales = torch.tensor([1.0, 1e-20, 1e20, -3.0]).repeat(-(-count // 4))[:count]
    x = (randn(count) * scales).to(dtype)
    for numbers in (x, x.float().mul(50).clamp(-100, 100).round().to(dtype), torch.full_like(x, torch.nan)):
        plain, compiled = (passes.quantise(numbers, bits, 99) for passes in (eager, cpu))
        for a, b in zip(plain, compiled, strict=True):
            assert torch.equal(a.view(torch.uint8), b.view(torch.uint8)) or (a.isnan() & b.isnan()).all()
        a, b = (passes.dequantise(*compiled, count, dtype) for passes in (eager, cpu))
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_other_float_types_take_plain_torch() -> None:
    x = randn(1000, torch.float16)
    found = dequantise(quantise(x, 8, 1), len(x), torch.float16)
    assert found.dtype == torch.float16 and (found - x).norm() < 0.01 * x.norm()


def test_bytes() -> None:
    for bits in WIDTHS:
        assert quantise(randn(10 * GROUP), bits, 0).nbytes == 10 * (GROUP * bits // 8 + 4)
