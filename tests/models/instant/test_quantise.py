"""What is kept of a tensor: a part of low rank takes error away, nothing adds a bias, the sizes are what is said."""

import pytest
import torch
from torch import Tensor

from eco.models.instant.low_rank import principal_directions
from eco.models.instant.quantise import Packed, relative_error
from eco.models.instant.slot import CALIBRATE_EVERY, PROBE_EVERY, Slot

ROWS, WIDTH, RANK = 512, 192, 8


def noise(seed: int = 0, width: int = WIDTH) -> Tensor:
    return torch.randn(ROWS, width, generator=torch.Generator().manual_seed(seed))


def low_rank(seed: int = 0, rest: float = 0.1) -> Tensor:
    """(ROWS, WIDTH) of rank RANK, and noise of `rest` times its size."""
    generator = torch.Generator().manual_seed(99)
    across = torch.randn(RANK, WIDTH, generator=generator) / RANK**0.5
    return noise(seed, RANK) @ across + rest * noise(seed + 1)


def basis_of(x: Tensor, rank: int = RANK) -> Tensor:
    return principal_directions(x, rank).to(x.dtype)


def off(kept: Packed, x: Tensor) -> float:
    return float((kept.read().view_as(x).float() - x.float()).norm() / x.float().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_rank_takes_the_error_away_where_there_is_one(dtype: torch.dtype) -> None:
    x = low_rank().to(dtype)
    bare, measured = Packed.of(x.flatten(), 4, None, 1)
    assert off(bare, x) == pytest.approx(0.14, abs=0.02)
    assert float(measured) == pytest.approx(off(bare, x), rel=0.1)
    helped, measured = Packed.of(x.flatten(), 4, basis_of(x), 1)
    assert off(helped, x) == pytest.approx(0.014, abs=0.003)
    assert float(measured) == pytest.approx(off(helped, x), rel=0.1)


def test_no_bias_with_a_part_of_low_rank() -> None:
    x, basis = low_rank(), basis_of(low_rank())
    count = 200
    reads = sum(Packed.of(x.flatten(), 4, basis, key)[0].read().double() for key in range(count))
    assert isinstance(reads, Tensor)
    once = off(Packed.of(x.flatten(), 4, basis, 0)[0], x)
    mean = float((reads / count - x.flatten()).norm() / x.norm())
    assert mean == pytest.approx(once / count**0.5, rel=0.1)


def test_sizes() -> None:
    x, basis = low_rank().bfloat16(), basis_of(low_rank()).bfloat16()
    kept, _ = Packed.of(x.flatten(), 4, basis, 1)
    left, coefficients = ROWS * WIDTH // 2 + ROWS * WIDTH // 128 * 4, ROWS * RANK + ROWS * RANK // 128 * 4
    assert kept.nbytes == left + coefficients + basis.nbytes
    assert kept.bits == 4


@pytest.mark.parametrize("width", [96, 100])
def test_rows_that_are_no_whole_groups(width: int) -> None:
    x = noise(width=width)[:301]
    for basis in (None, basis_of(x, 4)):
        kept, measured = Packed.of(x.flatten(), 6, basis, 1)
        assert off(kept, x) == pytest.approx(0.034, abs=0.005)
        assert float(measured) == pytest.approx(off(kept, x), rel=0.15)


@pytest.mark.parametrize(("bits", "error"), [(4, 0.1415), (6, 0.0339), (8, 0.0084)])
def test_errors_of_normal_numbers(bits: int, error: float) -> None:
    assert relative_error(noise().flatten(), bits) == pytest.approx(error, rel=0.02)


# Slots choose


def slot(threshold: float, rank: int = 64) -> Slot:
    return Slot("block/1", rank, threshold)


@pytest.mark.parametrize(("threshold", "bits"), [(0.2, 4), (0.05, 6), (0.02, 8), (0.001, 8)])
def test_the_fewest_bits_that_suffice(threshold: float, bits: int) -> None:
    chosen = slot(threshold)
    kept, _ = chosen.pack(noise().flatten(), WIDTH, 0)
    assert kept.bits == chosen.bits == bits and kept.basis is None


def test_directions_where_they_pay() -> None:
    chosen = slot(0.05)
    kept, error = chosen.pack(low_rank().flatten(), WIDTH, 0)
    assert kept.bits == 4 and kept.basis is not None and kept.basis.shape[1] <= RANK and float(error) < 0.05
    assert slot(0.05, rank=2).pack(low_rank().flatten(), WIDTH, 0)[0].bits == 6
    assert slot(0.2).pack(low_rank().flatten(), WIDTH, 0)[0].basis is None


def test_more_bits_stay_until_the_probe() -> None:
    chosen = slot(0.05)
    chosen.pack(low_rank().flatten(), WIDTH, 0)
    chosen.judge(0.04)
    assert chosen.bits == 4
    chosen.judge(0.06)
    assert chosen.bits == 6 and chosen.basis is None
    exact = torch.zeros(ROWS * WIDTH)
    for call in range(1, PROBE_EVERY):
        assert chosen.pack(exact, WIDTH, 0)[0].bits == 6, call
    assert chosen.pack(exact, WIDTH, 0)[0].bits == 4
    chosen.judge(0.9)
    chosen.judge(0.9)
    chosen.judge(0.9)
    assert chosen.bits == 8
    chosen.judge(float("nan"))
    assert chosen.bits == 8


def test_directions_are_found_anew_after_a_time() -> None:
    chosen, x = slot(0.05), low_rank()
    chosen.pack(x.flatten(), WIDTH, 0)
    before = chosen.basis
    turned = x.roll(7, 1).flatten()
    assert chosen.pack(turned, WIDTH, CALIBRATE_EVERY - 1)[0].basis is before
    kept, error = chosen.pack(turned, WIDTH, CALIBRATE_EVERY)
    assert kept.basis is not before and float(error) < 0.05


def test_another_shape_gets_its_own_directions() -> None:
    chosen = slot(0.05)
    chosen.pack(low_rank().flatten(), WIDTH, 0)
    x = low_rank()[:, :96].flatten()
    assert off(chosen.pack(x, 96, 0)[0], x) < 0.06
    assert off(chosen.pack(x.bfloat16(), 96, 0)[0], x) < 0.06


def test_few_long_rows_keep_no_directions_as_large_as_themselves() -> None:
    x = noise(width=8)[:64].repeat(1, 1024)
    kept, _ = slot(0.05).pack(x.flatten(), x.shape[1], 0)
    assert kept.nbytes < 0.25 * x.nbytes


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, 3e38])
def test_numbers_that_are_none_are_no_error_here(broken: float) -> None:
    x = low_rank()
    x[7] = broken
    kept, _ = slot(0.05).pack(x.flatten(), WIDTH, 0)
    assert kept.bits == 8 and not torch.allclose(kept.read().view_as(x)[7], low_rank()[7])
