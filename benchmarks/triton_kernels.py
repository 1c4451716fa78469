"""Each Triton kernel beside plain torch on a GPU, in bf16 and at the sizes of the `sigma` recipe.

Training steps of a mixer and of a head, and one product with packed weights as decoding makes it, whose peers are
unpacking in torch and a dense bf16 weight of eight times the bytes. Without a CUDA device there is nothing to measure.
"""

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Row, alternate, seconds
from eco.kernels import cross_entropy, mamba3, ternary, triton
from eco.kernels.cross_entropy import eager as eager_cross_entropy
from eco.kernels.mamba3 import eager as eager_mamba3
from eco.kernels.ternary import eager as eager_ternary

REPEATS = 10
"""Calls in one sample."""

Action = Callable[[], object]


@dataclass(frozen=True)
class Sizes:
    """Of a batch and a model; the defaults are those of `sigma`."""

    batch: int = 4
    time: int = 512
    heads: int = 24
    channels: int = 64
    rank: int = 4
    state: int = 64
    rotated: int = 16
    width: int = 768
    hidden: int = 2048
    vocabulary: int = 100_277


def rows(rounds: int = 5) -> list[Row]:
    """Milliseconds of a call; none without a GPU that Triton serves."""
    if lack := triton.missing():
        print(f"triton_kernels: skipped, {lack}", file=sys.stderr)
        return []
    found = []
    for name, candidates in comparisons("cuda", Sizes()).items():
        samples = alternate({peer: _timed(action) for peer, action in candidates.items()}, rounds)
        medians = {peer: statistics.median(values) for peer, values in samples.items()}
        best = min(value for peer, value in medians.items() if peer != "triton")
        found += [
            Row(f"{name}: {peer}", 1e3 * value, "ms", peer_ratio=best / value if peer == "triton" else None)
            for peer, value in medians.items()
        ]
    return found


def comparisons(device: str, sizes: Sizes) -> dict[str, dict[str, Action]]:
    """By what is computed, then by who does it."""
    return {
        "mixer, forward and backward": _mixers(device, sizes),
        "head and loss, forward and backward": _losses(device, sizes),
        "packed ternary product of one row": _products(device, sizes),
    }


def _timed(action: Action) -> Callable[[], float]:
    def sample() -> None:
        for _ in range(REPEATS):
            action()
        torch.cuda.synchronize()

    return lambda: seconds(sample) / REPEATS


def _mixers(device: str, s: Sizes) -> dict[str, Action]:
    draw = _draw(device)
    each, shared = (s.batch, s.time, s.heads), (s.batch, s.time, s.rank, s.state)
    rows = [draw(*each, s.channels), draw(*each, s.channels), draw(*shared), draw(*shared)]
    numbers = [-draw(*each).abs(), draw(*each).abs(), draw(*each).abs()]
    phase = draw(*each, s.rotated)
    by_head = [draw(s.heads, s.rank, s.state) for _ in range(2)] + [draw(s.heads, s.rank, s.channels) for _ in range(3)]
    weights = mamba3.Mamba3Weights(*by_head, draw(s.heads))
    leaves = [part.requires_grad_() for part in (*rows, *numbers, *weights)]
    inputs = (*rows, *numbers, (phase.cos(), phase.sin()), weights)
    return {
        "triton": _step(lambda: mamba3.mamba3_mix(*inputs, chunk=16)[0].float().square().mean(), leaves),
        "torch": _step(lambda: eager_mamba3.mamba3_mix(*inputs, chunk=16)[0].float().square().mean(), leaves),
    }


def _losses(device: str, s: Sizes) -> dict[str, Action]:
    draw = _draw(device)
    hidden, weight = draw(s.batch * s.time, s.width).requires_grad_(), draw(s.vocabulary, s.width).requires_grad_()
    targets = torch.arange(s.batch * s.time, device=device) % s.vocabulary
    leaves = [hidden, weight]
    return {
        "triton": _step(lambda: cross_entropy.linear_cross_entropy(hidden, weight, targets), leaves),
        "torch": _step(lambda: eager_cross_entropy.linear_cross_entropy(hidden, weight, targets, -100), leaves),
    }


def _products(device: str, s: Sizes) -> dict[str, Action]:
    draw = _draw(device)
    x, weight = draw(1, s.width).bfloat16(), draw(s.hidden, s.width)
    codes, scale = ternary.ternarise(weight, [s.hidden], torch.bfloat16)
    packed, columns, dense = ternary.pack(codes), ternary.by_row(scale, [s.hidden]), weight.bfloat16()
    return {
        "triton": lambda: ternary.packed_linear(x, packed, columns),
        "torch": lambda: eager_ternary.packed_linear(x, packed, columns),
        "torch, dense": lambda: F.linear(x, dense),
    }


def _draw(device: str) -> Callable[..., Tensor]:
    """Normal numbers, the same on every device."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator).to(device)


def _step(loss: Callable[[], Tensor], leaves: list[Tensor]) -> Action:
    """One forward under bf16 autocast, and its backward."""

    def step() -> tuple[Tensor, ...]:
        with torch.autocast(leaves[0].device.type, torch.bfloat16):
            value = loss()
        return torch.autograd.grad(value, leaves)

    return step
