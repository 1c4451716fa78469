"""The benchmark's peer computes the recurrence it says."""

import pytest
import torch
from torch import Tensor

from benchmarks.published_ssd import segment_sums, ssd


def sequential(x: Tensor, log_decay: Tensor, key: Tensor, query: Tensor) -> Tensor:
    memory = x.new_zeros(x.shape[0], x.shape[2], key.shape[-1], x.shape[-1])
    outputs = []
    for t in range(x.shape[1]):
        memory = log_decay[:, t, :, None, None].exp() * memory
        memory = memory + key[:, t, None, :, None] * x[:, t, :, None, :]
        outputs.append((query[:, t, None, None, :] @ memory).squeeze(-2))
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("chunk", [1, 4, 12])
def test_equals_the_recurrence_and_its_gradients(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = [randn(2, 12, 3, 5), -randn(2, 12, 3).abs(), randn(2, 12, 4), randn(2, 12, 4)]
    upstream = randn(2, 12, 3, 5)
    leaves = [x.requires_grad_() for x in inputs]
    found, expected = ssd(*leaves, chunk), sequential(*leaves)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for mine, right in zip(*(torch.autograd.grad(y, leaves, upstream) for y in (found, expected)), strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=1e-11)


def test_segment_sums() -> None:
    sums = segment_sums(torch.tensor([5.0, 2.0, 3.0]))
    inf = torch.inf
    assert sums.tolist() == [[0, -inf, -inf], [2, 0, -inf], [5, 3, 0]]
