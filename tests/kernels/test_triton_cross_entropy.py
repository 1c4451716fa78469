"""The loss of a head in Triton against its definition in float64, over several chunks of rows and of columns."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from parity import error, run

from eco.kernels import cross_entropy
from eco.kernels.cross_entropy import eager, reference

SHAPES = [(33, 12, 50), (7, 5, 9000), (1, 3, 2)]
"""Rows, width, vocabulary."""


def errors(rows: int, width: int, vocabulary: int, device: str, dtype: torch.dtype) -> tuple[list[float], list[float]]:
    """Of loss and gradients: Triton's and plain torch's, both with products in `dtype`."""
    from eco.kernels.cross_entropy import triton

    generator = torch.Generator().manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton, "_LOGITS_BYTES", 2_000)
        targets = torch.randint(vocabulary, (rows,), generator=generator)
        targets[1::3] = -100
        hidden, weight = (2 * torch.randn(size, width, generator=generator) for size in (rows, vocabulary))
        inputs = [part.to(device) for part in (hidden, weight, targets)]
        right = run(partial(reference.linear_cross_entropy, ignore_index=-100), inputs, torch.float64)
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            ours = run(cross_entropy.linear_cross_entropy, inputs)
            theirs = run(partial(eager.linear_cross_entropy, ignore_index=-100), inputs)
    found = [[error(mine, good) for mine, good in zip(one, right, strict=True)] for one in (ours, theirs)]
    return found[0], found[1]


@pytest.mark.parametrize(("rows", "width", "vocabulary"), SHAPES)
def test_in_the_interpreter(rows: int, width: int, vocabulary: int, interpreted: Callable[..., Any]) -> None:
    triton, _ = interpreted(errors, rows, width, vocabulary, "cpu", torch.float32)
    assert len(triton) == 3 and max(triton) < 1e-5


def test_half_precision_in_the_interpreter(interpreted: Callable[..., Any]) -> None:
    triton, plain = interpreted(errors, 33, 12, 50, "cpu", torch.float16)
    assert all(mine < 1.5 * other + 1e-5 for mine, other in zip(triton, plain, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width", "vocabulary"), SHAPES)
def test_on_a_gpu(rows: int, width: int, vocabulary: int, dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    triton, plain = errors(rows, width, vocabulary, "cuda", dtype)
    assert all(mine < 1.5 * other + 1e-5 for mine, other in zip(triton, plain, strict=True))


def extremes() -> list[torch.Tensor]:
    """Losses of far-off logits, of no targets at all, and of a logit that is no number."""
    losses = []
    for logits, target in [([300.0, -300.0], 1), ([0.0, 0.0], -100), ([0.0, float("nan")], 0)]:
        weight = torch.tensor(logits)[:, None].requires_grad_()
        losses.append(cross_entropy.linear_cross_entropy(torch.ones(1, 1), weight, torch.tensor([target])).detach())
    return losses


def test_extremes_are_told(interpreted: Callable[..., Any]) -> None:
    far, none, broken = interpreted(extremes)
    assert far.item() == 600 and none.isnan() and broken.isnan()


def wrong_target() -> None:
    cross_entropy.linear_cross_entropy(torch.ones(2, 4), torch.ones(5, 4), torch.tensor([0, 5]))


def test_a_wrong_target_is_named(interpreted: Callable[..., Any]) -> None:
    with pytest.raises(IndexError, match=r"target 5 .* vocabulary of 5"):
        interpreted(wrong_target)
