"""The Mamba-3 mixer in Triton against its recurrence in float64: values, states and every gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity import error, run
from torch import Tensor

from eco.kernels import mamba3
from eco.kernels.mamba3 import Mamba3State, Mamba3Weights, eager, reference

SIZES = {
    "one chunk": {"B": 1, "T": 4, "H": 2, "P": 16, "R": 4, "N": 16, "A": 0, "chunk": 4},
    "ragged": {"B": 2, "T": 11, "H": 2, "P": 12, "R": 3, "N": 20, "A": 5, "chunk": 4},
    "no ranks": {"B": 1, "T": 40, "H": 1, "P": 16, "R": 1, "N": 16, "A": 8, "chunk": 16},
    "chunks too long": {"B": 1, "T": 20, "H": 1, "P": 8, "R": 8, "N": 8, "A": 2, "chunk": 20},
}


def inputs(B: int, T: int, H: int, P: int, R: int, N: int, A: int, first: bool, **_: int) -> list[Tensor]:
    """x, gate, key, query, three numbers, two of rotation, six weights, three of the state; last the resets."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rows = [randn(B, T, H, P), randn(B, T, H, P), randn(B, T, R, N), randn(B, T, R, N)]
    numbers = [-0.3 * randn(B, T, H).abs(), randn(B, T, H).abs(), randn(B, T, H).abs()]
    phase = randn(B, T, H, A)
    weights = [randn(H, R, size) for size in (N, N, P, P, P)] + [randn(H)]
    state = [randn(B, H, N, P), randn(B, H, R, N), randn(B, H, R, P)]
    reset = torch.rand(B, T, generator=generator) < 0.2
    reset[:, 0] = first
    return [*rows, *numbers, phase.cos(), phase.sin(), *weights, *state, reset]


def mixer(mix: Callable[..., tuple[Tensor, Mamba3State]], turns: bool, documents: bool, **options: Any) -> Any:
    """`mix` as a function of `inputs`: the output, then the three parts of the state."""

    def mixed(*tensors: Tensor) -> tuple[Tensor, ...]:
        *parts, reset = tensors
        rotation = (parts[7], parts[8]) if turns else None
        weights, state = Mamba3Weights(*parts[9:15]), Mamba3State(*parts[15:])
        out, after = mix(*parts[:7], rotation, weights, reset=reset if documents else None, state=state, **options)
        return (out, *after, *(0 * part.sum() for part in parts))  # every input has a gradient

    return mixed


def errors(name: str, documents: bool, first: bool, device: str, dtype: torch.dtype) -> tuple[list[float], list[float]]:
    """Of Triton and of plain torch, both in `dtype` at their products."""
    sizes = SIZES[name]
    tensors = [part.to(device) for part in inputs(**sizes, first=first)]
    kinds = {"turns": sizes["A"] > 0, "documents": documents}
    right = run(mixer(reference.mamba3_mix, **kinds), tensors, torch.float64)
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        found = [
            run(mixer(mix, **kinds, chunk=sizes["chunk"]), tensors) for mix in (mamba3.mamba3_mix, eager.mamba3_mix)
        ]
    return tuple([error(a, b) for a, b in zip(one, right, strict=True) if b.any()] for one in found)  # type: ignore[return-value]


CASES = [
    ("one chunk", False, False),
    ("ragged", True, False),
    ("no ranks", True, True),
    ("chunks too long", False, False),
]


@pytest.mark.parametrize(("name", "documents", "first"), CASES)
def test_in_the_interpreter(name: str, documents: bool, first: bool, interpreted: Callable[..., Any]) -> None:
    triton, _ = interpreted(errors, name, documents, first, "cpu", torch.float32)
    assert len(triton) > 12 and max(triton) < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "documents", "first"), CASES)
def test_on_a_gpu(name: str, documents: bool, first: bool, dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    triton, plain = errors(name, documents, first, "cuda", dtype)
    for mine, other in zip(triton, plain, strict=True):
        assert mine < 1.5 * other + 1e-5


def uses_triton() -> bool:
    """Whether autograd finds the Triton scan behind the mixer's output."""
    parts = inputs(**SIZES["one chunk"], first=False)
    weights = Mamba3Weights(*parts[9:15])
    _, state = mamba3.mamba3_mix(parts[0].requires_grad_(), *parts[1:7], None, weights, chunk=4)
    return "TritonScan" in type(state.memory.grad_fn).__name__


def test_it_is_triton_that_is_tested(interpreted: Callable[..., Any]) -> None:
    assert interpreted(uses_triton) and not uses_triton()
