"""The Mamba-3 mixer in C++: its values and gradients against the recurrence in float64, beside plain torch's."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from parity import error
from torch import Tensor

from eco.kernels.mamba3 import Mamba3State, Mamba3Weights, cpu, eager, mamba3_mix, reference

pytestmark = pytest.mark.usefixtures("cpp")

Mix = Callable[..., tuple[Tensor, Mamba3State]]
Shape = tuple[int, ...]

CASES = {
    "profile": ((1, 70, 2, 64, 64, 4, 16, 16), False, False),
    "profile, documents": ((1, 55, 1, 64, 64, 4, 16, 16), True, False),
    "one rank, state": ((2, 130, 2, 64, 16, 1, 4, 64), False, True),
    "real": ((2, 37, 3, 32, 32, 4, 0, 8), False, False),
    "odd, documents, state": ((1, 50, 2, 20, 18, 3, 5, 7), True, True),
    "one position": ((2, 1, 2, 32, 16, 2, 4, 64), False, False),
    "a chunk per position": ((1, 5, 2, 32, 16, 2, 8, 1), False, True),
    "many groups of heads": ((1, 20, 19, 16, 16, 2, 4, 16), True, False),
}
"""(B, T, H, P, N, R, A, chunk), whether there are several documents, whether a state comes before."""


def inputs_of(shape: Shape, state: bool = False) -> list[Tensor]:
    """x .. previous_gain, cos and sin, the weights, and a state: in float64, as large as the layer's at its start."""
    B, T, H, P, N, R, A, _ = shape
    randn = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step, share, phase = F.softplus(randn(B, T, H) - 1), torch.sigmoid(randn(B, T, H)), randn(B, T, H, A).cumsum(1)
    rows = [randn(B, T, H, P), randn(B, T, H, P), randn(B, T, R, N), randn(B, T, R, N)]
    rows = [part.bfloat16().double() for part in rows]
    numbers = [-step * F.softplus(randn(B, T, H)), share * step, (1 - share) * step]
    biases, ranks = [1 + randn(H, R, N) / 4 for _ in range(2)], [1 / R + randn(H, R, P) / 4 for _ in range(3)]
    past = [randn(B, H, N, P), randn(B, H, R, N), randn(B, H, R, P)] if state else []
    return [*rows, *numbers, *([phase.cos(), phase.sin()] if A else []), *biases, *ranks, randn(H), *past]


def documents_of(shape: Shape) -> Tensor:
    return torch.rand(shape[:2], generator=torch.Generator().manual_seed(1)) < 0.1


def run(mix: Mix, inputs: list[Tensor], turned: bool, dtype: torch.dtype, **options: Any) -> list[Tensor]:
    """The output, the state and the gradients of all inputs, in float64. In bf16 only x, gate, key and query are that,
    and the products; all else is fp32."""
    other = torch.float32 if dtype == torch.bfloat16 else dtype
    leaves = [part.to(other if i >= 4 else dtype).requires_grad_() for i, part in enumerate(inputs)]
    sequences, rest = leaves[:7], iter(leaves[7:])
    rotation = (next(rest), next(rest)) if turned else None
    weights = Mamba3Weights(*(next(rest) for _ in Mamba3Weights._fields))
    state = Mamba3State(*past) if (past := list(rest)) else None
    y, last = mix(*sequences, rotation, weights, state=state, **options)
    outputs = [y, *last]
    generator = torch.Generator().manual_seed(7)
    upstream = [torch.randn(out.shape, generator=generator).bfloat16().to(out.dtype) for out in outputs]
    gradients = torch.autograd.grad(outputs, leaves, upstream)
    return [part.detach().double() for part in (*outputs, *gradients)]


def error_of(found: Tensor, right: Tensor) -> float:
    """Of what is zero, such as the gradient of the first decay after no state, the absolute error."""
    return error(found, right) if right.count_nonzero() else found.norm().item()


@pytest.mark.parametrize("name", CASES)
def test_mixer_in_cpp(name: str) -> None:
    """fp32 within 1e-5 of the recurrence; bf16 no worse than 1.5 times plain torch's own bf16."""
    shape, documents, state = CASES[name]
    inputs, turned = inputs_of(shape, state), shape[6] > 0
    reset, chunk = documents_of(shape) if documents else None, shape[-1]
    expected = run(reference.mamba3_mix, inputs, turned, torch.float64, reset=reset)
    found = [
        run(mix, inputs, turned, dtype, reset=reset, chunk=chunk)
        for mix, dtype in (
            (cpu.mamba3_mix, torch.float32),
            (cpu.mamba3_mix, torch.bfloat16),
            (eager.mamba3_mix, torch.bfloat16),
        )
    ]
    for exact, ours, plain, right in zip(*found, expected, strict=True):
        assert error_of(exact, right) < 1e-5
        assert error_of(ours, right) < 1.5 * error_of(plain, right) + 1e-5


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_do_not_depend_on_the_number_of_threads(dtype: torch.dtype, threads: Callable[[int], None]) -> None:
    shape = (3, 40, 7, 32, 32, 2, 8, 16)
    found = []
    for count in (1, 2, 3):
        threads(count)
        found.append(run(cpu.mamba3_mix, inputs_of(shape), True, dtype, chunk=16, reset=documents_of(shape)))
    for one, two, three in zip(*found, strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)


def test_parts_of_a_projection_are_read_where_they_lie() -> None:
    """And gradients of half the output, of the state alone or of the output alone are all welcome."""
    inputs = [part.float() for part in inputs_of((2, 20, 3, 16, 16, 2, 4, 8))]
    both = torch.cat(inputs[:2], dim=-1).requires_grad_()
    x, gate = both.split(16, dim=-1)
    weights = Mamba3Weights(*inputs[9:])
    gradients = []
    for mix, parts in ((cpu.mamba3_mix, (x, gate)), (eager.mamba3_mix, (x.contiguous(), gate.contiguous()))):
        y, last = mix(*parts, *inputs[2:7], (inputs[7], inputs[8]), weights, chunk=8)
        losses = y[..., :5].square().sum(), last.memory.square().sum(), y.sum() + last.key.sum() + last.value.sum()
        gradients.append([torch.autograd.grad(loss, both, retain_graph=True)[0] for loss in losses])
    for ours, plain in zip(*gradients, strict=True):
        assert error(ours.double(), plain.double()) < 1e-5


def test_documents_are_strangers_exactly() -> None:
    inputs = [part.float().requires_grad_() for part in inputs_of((1, 20, 2, 16, 16, 2, 4, 8), state=True)]
    reset = torch.zeros(1, 20, dtype=torch.bool)
    reset[:, [8, 13]] = True
    rotation, weights, state = (inputs[7], inputs[8]), Mamba3Weights(*inputs[9:15]), Mamba3State(*inputs[15:])
    y, last = cpu.mamba3_mix(*inputs[:7], rotation, weights, chunk=8, reset=reset, state=state)
    gradients = torch.autograd.grad(y[:, 13:].square().sum() + last.memory.square().sum(), inputs)
    assert all(gradient[:, :13].count_nonzero() == 0 for gradient in gradients[:9])
    assert all(gradient.count_nonzero() == 0 for gradient in gradients[15:])
    assert gradients[4][:, 13].count_nonzero() == 0 and gradients[4][:, 14].count_nonzero() > 0


@pytest.mark.parametrize("strong", [-50.0, -5000.0])
def test_strong_decay_does_not_blur_the_slow_decay_after_it(strong: float) -> None:
    inputs = inputs_of((2, 128, 2, 16, 16, 1, 4, 64))
    inputs[4].mul_(0.1)[:, ::7] = strong
    expected = run(reference.mamba3_mix, inputs, True, torch.float64)
    for found, right in zip(run(cpu.mamba3_mix, inputs, True, torch.float32, chunk=64), expected, strict=True):
        assert error_of(found, right) < 2e-6


def test_the_mixer_chooses_the_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "mamba3_mix", None)
    inputs = inputs_of((1, 9, 2, 16, 16, 2, 4, 8))
    found = run(mamba3_mix, inputs, True, torch.bfloat16, chunk=8)
    assert all(
        torch.equal(a, b)
        for a, b in zip(found, run(cpu.mamba3_mix, inputs, True, torch.bfloat16, chunk=8), strict=True)
    )
