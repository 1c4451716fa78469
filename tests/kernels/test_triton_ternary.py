"""Products with packed ternary weights in Triton are those of plain torch, bit for bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity import error

from eco.kernels import ternary
from eco.kernels.ternary import eager, reference

SHAPES = [(1, 64, 64), (5, 37, 70), (17, 300, 3), (3, 1, 1)]
"""Rows of x, width, rows of the weight: 37 and 300 / 4 leave blocks unfilled."""


def products(n: int, width: int, rows: int, device: str, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Of Triton, of plain torch, and the reference's in float64."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(n, width, generator=generator), torch.randn(rows, width, generator=generator)
    x[0] = 0 if n > 1 else x[0]
    blocks = [rows - rows // 2, *([rows // 2] if rows > 1 else [])]
    codes, scale = ternary.ternarise(weight, blocks, torch.float32)
    x, packed, columns = (part.to(device) for part in (x, ternary.pack(codes), ternary.by_row(scale, blocks)))
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        found, plain = (by.packed_linear(x, packed, columns) for by in (ternary, eager))
    right = reference.ternary_linear(x.cpu().double(), weight.double(), blocks)
    return found.cpu(), plain.cpu(), right


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("n", "width", "rows"), SHAPES)
def test_in_the_interpreter(n: int, width: int, rows: int, dtype: torch.dtype, interpreted: Callable[..., Any]) -> None:
    found, plain, right = interpreted(products, n, width, rows, "cpu", dtype)
    assert found.dtype == dtype and torch.equal(found, plain)
    assert error(found.double(), right) < (1e-6 if dtype == torch.float32 else 1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "width", "rows"), SHAPES)
def test_on_a_gpu(n: int, width: int, rows: int, dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    found, plain, right = products(n, width, rows, "cuda", dtype)
    assert torch.equal(found, plain) and error(found.double(), right) < 1e-2


def ties() -> tuple[torch.Tensor, torch.Tensor]:
    """Activations of n and a half steps, found and expected."""
    x = torch.tensor([[127.0, 0.5, 1.5, -2.5, 3.4999998]])
    packed, one = ternary.pack(torch.eye(5)), torch.ones(5)
    return ternary.packed_linear(x, packed, one), x.round()


def test_halves_are_rounded_to_even(interpreted: Callable[..., Any]) -> None:
    found, expected = interpreted(ties)
    assert found.tolist() == expected.tolist() == [[127, 0, 2, -2, 3]]


def uses_triton() -> bool:
    """Whether the Triton product is what `packed_linear` calls."""
    from eco.kernels.ternary import triton

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton, "packed_linear", lambda x, *_: x)
        x = torch.ones(1, 4)
        return ternary.packed_linear(x, torch.zeros(2, 1, dtype=torch.uint8), torch.ones(2)) is x


def test_it_is_triton_that_is_tested(interpreted: Callable[..., Any]) -> None:
    assert interpreted(uses_triton)
