"""The Mamba-3 mixer: by chunks, in pieces and token by token it is one recurrence, which is written out in float64."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import error
from torch import Tensor

from eco.kernels import mamba3
from eco.kernels.mamba3 import Mamba3State, Mamba3Weights, eager, reference

DOUBLE = torch.float64
SEQUENCES = ("x", "gate", "key", "query", "log_decay", "gain", "previous_gain")


@dataclass(frozen=True)
class Sizes:
    """Batch, time, heads, channels, rank, entries of state, pairs that rotate; as in `eco.kernels.mamba3`."""

    B: int = 2
    T: int = 11
    H: int = 3
    P: int = 4
    R: int = 2
    N: int = 6
    A: int = 2


@dataclass(frozen=True)
class Case:
    """Inputs of a mixer."""

    sequences: dict[str, Tensor]
    rotation: tuple[Tensor, Tensor] | None
    weights: Mamba3Weights
    reset: Tensor | None
    state: Mamba3State | None

    def leaves(self) -> list[Tensor]:
        return [*self.sequences.values(), *(self.rotation or ()), *self.weights, *(self.state or ())]

    def run(self, mix: Any, **options: Any) -> tuple[Tensor, Mamba3State]:
        out: tuple[Tensor, Mamba3State] = mix(
            *self.sequences.values(), self.rotation, self.weights, reset=self.reset, state=self.state, **options
        )
        return out

    def piece(self, first: int, end: int, state: Mamba3State | None) -> "Case":
        """The positions first to end - 1."""
        turn = None if self.rotation is None else (self.rotation[0][:, first:end], self.rotation[1][:, first:end])
        reset = None if self.reset is None else self.reset[:, first:end]
        parts = {name: part[:, first:end] for name, part in self.sequences.items()}
        return Case(parts, turn, self.weights, reset, state)


def case(sizes: Sizes, *, reset: bool = False, state: bool = False, dtype: torch.dtype = DOUBLE, seed: int = 0) -> Case:
    s, generator = sizes, torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=DOUBLE).to(dtype)

    steps, shared = (s.B, s.T, s.H), (s.B, s.T, s.R, s.N)
    sequences = {
        **{name: randn(*steps, s.P) for name in ("x", "gate")},
        **{name: randn(*shared) for name in ("key", "query")},
        "log_decay": -0.3 * randn(*steps).abs(),
        **{name: randn(*steps).abs() for name in ("gain", "previous_gain")},
    }
    phase = randn(*steps, s.A)
    biases, ranks = [randn(s.H, s.R, s.N) for _ in range(2)], [randn(s.H, s.R, s.P) for _ in range(3)]
    return Case(
        sequences,
        (phase.cos(), phase.sin()) if s.A else None,
        Mamba3Weights(*biases, *ranks, randn(s.H)),
        torch.rand(s.B, s.T, generator=generator) < 0.25 if reset else None,
        Mamba3State(*(randn(s.B, s.H, *each) for each in ((s.N, s.P), (s.R, s.N), (s.R, s.P)))) if state else None,
    )


def values_and_gradients(inputs: Case, mix: Any, **options: Any) -> list[Tensor]:
    """The output, the state, and the gradients of every input for fixed random gradients of all of these."""
    leaves = [leaf.requires_grad_() for leaf in inputs.leaves()]
    y, state = inputs.run(mix, **options)
    outputs = [y, *state]
    generator = torch.Generator().manual_seed(7)
    upstream = [torch.randn(out.shape, generator=generator).to(out.dtype) for out in outputs]
    return [*(out.detach() for out in outputs), *torch.autograd.grad(outputs, leaves, upstream)]


CASES = {
    "complex MIMO": (Sizes(), 4, False, False),
    "real": (Sizes(A=0), 4, False, False),
    "SISO, resets": (Sizes(T=12, R=1, A=3), 4, True, False),
    "rank 4, state": (Sizes(T=9, R=4, N=4), 4, False, True),
    "resets and state": (Sizes(T=13, R=2), 4, True, True),
    "chunk above T": (Sizes(T=5, R=4), 64, True, True),
    "chunk of one": (Sizes(B=1, T=3, H=1), 1, False, True),
    "one position": (Sizes(T=1, R=4), 16, False, True),
    "one head, one channel": (Sizes(B=1, T=20, H=1, P=1, R=1, N=1, A=0), 7, True, False),
}


@pytest.mark.parametrize("name", CASES)
def test_chunks_equal_the_recurrence_in_float64(name: str) -> None:
    sizes, chunk, reset, state = CASES[name]
    inputs = case(sizes, reset=reset, state=state)
    expected = values_and_gradients(inputs, reference.mamba3_mix)
    for found, right in zip(values_and_gradients(inputs, eager.mamba3_mix, chunk=chunk), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mix", [mamba3.mamba3_mix, eager.mamba3_mix], ids=["chosen", "torch"])
@pytest.mark.parametrize("rank, chunk", [(1, 64), (4, 16)])
def test_float32_is_as_exact_as_it_can_be(rank: int, chunk: int, mix: Any) -> None:
    sizes = Sizes(T=150, H=2, P=16, R=rank, N=16, A=4)
    expected = values_and_gradients(case(sizes, reset=True, state=True), reference.mamba3_mix)
    inputs = case(sizes, reset=True, state=True, dtype=torch.float32)
    for found, right in zip(values_and_gradients(inputs, mix, chunk=chunk), expected, strict=True):
        assert found.dtype == torch.float32
        assert error(found.double(), right) < 1e-5
        torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-4 * right.abs().max().item())


@pytest.mark.parametrize("mix", [mamba3.mamba3_mix, eager.mamba3_mix], ids=["chosen", "torch"])
def test_bfloat16_products_keep_memory_and_decays_in_float32(mix: Any) -> None:
    """bf16 has 8 bits: relative errors of some 2^-8 in values, a few times that in gradients."""
    sizes = Sizes(T=150, H=2, P=16, R=4, N=16, A=4)
    expected = values_and_gradients(case(sizes), reference.mamba3_mix)
    inputs = case(sizes, dtype=torch.float32)

    def rounded(*arguments: Any, **options: Any) -> tuple[Tensor, Mamba3State]:
        with torch.autocast("cpu", torch.bfloat16):
            out: tuple[Tensor, Mamba3State] = mix(*arguments, **options)
            return out

    y, *others = values_and_gradients(inputs, rounded, chunk=16)
    assert y.dtype == torch.bfloat16 and {other.dtype for other in others} == {torch.float32}
    for found, right in zip([y, *others], expected, strict=True):
        assert error(found.double(), right) < 0.02


@settings(max_examples=25, deadline=None)
@given(
    time=st.integers(1, 24),
    chunk=st.integers(1, 26),
    rank=st.sampled_from([1, 3]),
    pairs=st.integers(0, 2),
    reset=st.booleans(),
    state=st.booleans(),
)
def test_any_chunk_gives_the_same(time: int, chunk: int, rank: int, pairs: int, reset: bool, state: bool) -> None:
    inputs = case(Sizes(T=time, R=rank, N=4, A=pairs), reset=reset, state=state, seed=time)
    expected, final = inputs.run(reference.mamba3_mix)
    y, ours = inputs.run(eager.mamba3_mix, chunk=chunk)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours, final, rtol=1e-9, atol=1e-9)


def test_gradients_equal_finite_differences() -> None:
    inputs = case(Sizes(B=1, T=5, H=2, P=2, R=2, N=4, A=1), state=True)
    reset = torch.tensor([[False, False, False, True, False]])
    leaves = [leaf.requires_grad_() for leaf in inputs.leaves()]

    def mix(*values: Tensor) -> tuple[Tensor, ...]:
        weights, state = Mamba3Weights(*values[9:15]), Mamba3State(*values[15:])
        y, last = eager.mamba3_mix(*values[:7], values[7:9], weights, chunk=2, reset=reset, state=state)
        return y, *last

    assert torch.autograd.gradcheck(mix, leaves)


def test_token_by_token_equals_all_at_once() -> None:
    inputs = case(Sizes(T=10), state=True)
    expected, final = inputs.run(mamba3.mamba3_mix, chunk=4)
    state = inputs.state
    assert state is not None and inputs.rotation is not None
    for t in range(10):
        now = [part[:, t] for part in inputs.sequences.values()]
        turn = inputs.rotation[0][:, t], inputs.rotation[1][:, t]
        y, state = mamba3.mamba3_step(*now, turn, inputs.weights, state)
        torch.testing.assert_close(y, expected[:, t], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state, final, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ends", [(1, 2, 13), (4, 8, 13), (7, 13)])
def test_pieces_equal_the_whole(ends: tuple[int, ...]) -> None:
    inputs = case(Sizes(T=13), reset=True)
    mix = partial(mamba3.mamba3_mix, chunk=4)
    expected, final = inputs.run(mix)
    outputs, state, first = [], None, 0
    for end in ends:
        y, state = inputs.piece(first, end, state).run(mix)
        outputs.append(y)
        first = end
    torch.testing.assert_close(torch.cat(outputs, dim=1), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state, final, rtol=1e-9, atol=1e-9)


def test_no_output_depends_on_later_positions() -> None:
    """Nor on the next position's gain, which is merged into that of its predecessor."""
    inputs = case(Sizes(T=11))
    sequences = {name: part.clone().requires_grad_() for name, part in inputs.sequences.items()}
    y, _ = Case(sequences, inputs.rotation, inputs.weights, None, None).run(mamba3.mamba3_mix, chunk=4)
    gradients = dict(zip(sequences, torch.autograd.grad(y[:, :6].square().sum(), sequences.values()), strict=True))
    for name in SEQUENCES:
        assert gradients[name][:, 6:].count_nonzero() == 0, name
        assert gradients[name][:, 1:5].abs().sum((0, 2) if gradients[name].dim() == 3 else (0, 2, 3)).min() > 0, name


def test_an_input_is_remembered_50_positions_later() -> None:
    inputs = case(Sizes(B=1, T=80))
    x = inputs.sequences["x"].requires_grad_()
    inputs.sequences["log_decay"].mul_(0.1)
    y, _ = inputs.run(mamba3.mamba3_mix, chunk=16)
    (gradient,) = torch.autograd.grad(y[:, 70].square().sum(), x)
    assert gradient[:, 20].norm() > 1e-3 * gradient[:, 69].norm() > 0


@pytest.mark.parametrize("position", [4, 6])
@pytest.mark.parametrize("state", [False, True])
def test_a_document_knows_nothing_of_the_one_before(position: int, state: bool) -> None:
    """Exactly: at the border of a chunk and inside one."""
    inputs = case(Sizes(T=11), state=state)
    reset = torch.zeros(2, 11, dtype=torch.bool)
    reset[:, position] = True
    leaves = [leaf.requires_grad_() for leaf in (*inputs.sequences.values(), *(inputs.state or ()))]
    packed = Case(inputs.sequences, inputs.rotation, inputs.weights, reset, inputs.state)
    y, last = packed.run(mamba3.mamba3_mix, chunk=4)
    alone, alone_last = inputs.piece(position, 11, None).run(mamba3.mamba3_mix, chunk=4)
    torch.testing.assert_close(y[:, position:], alone, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(last, alone_last, rtol=1e-9, atol=1e-9)

    loss = y[:, position:].square().sum() + last.memory.square().sum()
    gradients = torch.autograd.grad(loss, leaves)
    for name, gradient in zip(SEQUENCES, gradients, strict=False):
        assert gradient[:, :position].count_nonzero() == 0, name
    for gradient in gradients[len(SEQUENCES) :]:
        assert gradient.count_nonzero() == 0


def test_decay_at_a_documents_beginning_has_no_gradient() -> None:
    inputs = case(Sizes(T=11))
    reset = torch.zeros(2, 11, dtype=torch.bool)
    reset[:, 6] = True
    decay = inputs.sequences["log_decay"].requires_grad_()
    y, _ = Case(inputs.sequences, inputs.rotation, inputs.weights, reset, None).run(mamba3.mamba3_mix, chunk=4)
    (gradient,) = torch.autograd.grad(y.square().sum(), decay)
    assert gradient[:, 6].count_nonzero() == 0
    assert gradient[:, 7].count_nonzero() == gradient[:, 7].numel()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_strong_decay_forgets_without_overflow(dtype: torch.dtype) -> None:
    inputs = case(Sizes(T=70), state=True, dtype=dtype)
    inputs.sequences["log_decay"].fill_(-50.0)
    found = values_and_gradients(inputs, mamba3.mamba3_mix, chunk=64)
    assert all(part.isfinite().all() for part in found)
    expected = values_and_gradients(inputs, reference.mamba3_mix)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strong", [-50.0, -5000.0])
def test_strong_decay_does_not_blur_the_slow_decay_after_it(strong: float) -> None:
    sizes = Sizes(T=128, P=16, R=1, N=16)
    exact, rounded = case(sizes), case(sizes, dtype=torch.float32)
    for inputs in (exact, rounded):
        inputs.sequences["log_decay"].mul_(0.1)[:, ::7] = strong
    expected = values_and_gradients(exact, reference.mamba3_mix)
    for found, right in zip(values_and_gradients(rounded, eager.mamba3_mix, chunk=64), expected, strict=True):
        assert error(found.double(), right) < 2e-6


def test_the_state_keeps_nothing_else_alive() -> None:
    with torch.no_grad():
        _, state = case(Sizes(T=50)).run(mamba3.mamba3_mix, chunk=16)
    for part in state:
        assert part.untyped_storage().nbytes() == part.numel() * part.element_size()


def test_a_step_does_not_keep_a_state_for_each_position() -> None:
    """Counted: the elements saved for the backward, inputs included."""
    sizes = Sizes(B=1, T=256, H=2, P=32, R=1, N=64, A=0)
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    inputs = case(sizes, dtype=torch.float32)
    for leaf in inputs.leaves():
        leaf.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y, _ = inputs.run(mamba3.mamba3_mix, chunk=64)
    y.sum().backward()
    assert sum(saved.values()) < sizes.B * sizes.T * sizes.H * sizes.N * sizes.P / 4
