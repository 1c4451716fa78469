"""C3O: what limits a step, how credit shares it out, what it can tell afterwards, and that a run goes on bit by bit."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eco.kernels import native
from eco.kernels.c3o import reference
from eco.kernels.c3o.rule import REST
from eco.models.layers.linear import StackedLinear
from eco.optim import c3o
from eco.optim.contract import Measured, load_state

CONFIG = c3o.Config(lr=0.01, block_size=64, damping=1e-4)
DTYPES = ["fp32", "bf16"]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """A regression through a layer of four heads, with a gate and a bias that begin at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = StackedLinear(24, (16, 16), bias=True)
        self.heads.unit_rows = (8, 8, 8, 8)
        self.out = nn.Linear(32, 8, bias=False)
        self.gate = nn.Parameter(torch.zeros(()))
        with torch.no_grad():
            self.heads.weight.copy_(0.2 * randn(32, 24))
            self.heads.bias.zero_()
            self.out.weight.copy_(0.2 * randn(8, 32, seed=1))

    def loss(self, step: int) -> Tensor:
        x = randn(12, 24, seed=step % 5)
        return (self.out(self.heads(x).tanh()) * self.gate.exp() - x[:, :8]).square().mean()


def train(model: Net, optimizer: torch.optim.Optimizer, steps: range) -> float:
    loss = torch.zeros(())
    for step in steps:
        optimizer.zero_grad()
        loss = model.loss(step)
        loss.backward()
        optimizer.step()
    return loss.item()


def trained(steps: int = 3, **settings: Any) -> tuple[Net, c3o.C3O]:
    model = Net()
    optimizer = c3o.build(CONFIG.model_copy(update=settings), model)
    train(model, optimizer, range(steps))
    return model, optimizer


def some_credit(optimizer: c3o.C3O, seed: int = 5) -> dict[nn.Parameter, Tensor]:
    return {p: randn(len(offsets) - 1, seed=seed) for p, offsets in optimizer.blocks.items()}


def moved(model: Net, optimizer: c3o.C3O, step: int) -> dict[nn.Parameter, Tensor]:
    """What one more step really adds to each parameter."""
    before = {p: p.detach().clone() for p in model.parameters()}
    train(model, optimizer, range(step, step + 1))
    return {p: p.detach() - old for p, old in before.items()}


@pytest.fixture(params=["torch", "cpp"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test on both paths."""
    if request.param == "torch":
        monkeypatch.setattr(native, "library", lambda: None)
    elif native.library() is None:
        pytest.skip("no C++ kernels on this machine")


def test_steps_are_the_references(path: None) -> None:
    model, optimizer = trained(0, trust_radius=0.02)
    optimizer.set_credit(some_credit(optimizer))
    states = {p: [x.detach().double().flatten() for x in (p, 0 * p, 0 * p)] for p in model.parameters()}
    for step in range(6):
        train(model, optimizer, range(step, step + 1))
        for parameter, (weight, mean, square) in states.items():
            assert parameter.grad is not None
            scales = (0.4 * some_credit(optimizer)[parameter].double()).exp().clamp(0.6, 1.8)
            states[parameter] = list(
                reference.c3o(
                    weight, parameter.grad.double().flatten(), mean, square, scales.tolist(),
                    optimizer.blocks[parameter].tolist(),
                    lr=0.01, beta1=0.9, beta2=0.98, damping=1e-4, weight_decay=0.1 if parameter.ndim == 2 else 0.0,
                    radius=0.02, count=step + 1, rest=REST,
                )
            )  # fmt: skip
    for parameter, (weight, _, _) in states.items():
        torch.testing.assert_close(parameter.detach().double().flatten(), weight, rtol=1e-5, atol=1e-6)


def test_learns_and_what_starts_at_zero_moves(path: None) -> None:
    start = Net().loss(0).item()
    for dtype in DTYPES:
        model, optimizer = trained(60, state_dtype=dtype)
        assert model.loss(0).item() < start / 4
        assert model.gate.item() != 0 and model.heads.bias.abs().min() > 0
        assert isinstance(optimizer, Measured)


def test_no_tensor_steps_beyond_its_radius(path: None) -> None:
    model, optimizer = trained(1, lr=0.5, trust_radius=0.01, weight_decay=0.0)
    norms = {p: max(p.detach().norm().item(), REST * p.numel() ** 0.5) for p in model.parameters()}
    for parameter, update in moved(model, optimizer, 1).items():
        assert update.norm().item() == pytest.approx(0.01 * norms[parameter], rel=1e-4)
    assert optimizer.metrics()["c3o_trust_limited"] == 4
    model, optimizer = trained(2, lr=1e-5)
    assert optimizer.metrics()["c3o_trust_limited"] == 0


def test_only_matrices_decay(path: None) -> None:
    model, optimizer = trained(3)
    before = {p: p.detach().clone() for p in model.parameters()}
    for parameter in model.parameters():
        optimizer.state[parameter]["exp_avg"].zero_()
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter, old in before.items():
        torch.testing.assert_close(parameter.detach(), old * (1 - 0.01 * 0.1 if parameter.ndim == 2 else 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_last_update_is_what_was_added(path: None, dtype: str) -> None:
    model, optimizer = trained(3, state_dtype=dtype, weight_decay=0.0)
    optimizer.set_credit(some_credit(optimizer))
    for parameter, update in moved(model, optimizer, 3).items():
        told = optimizer.last_update(parameter)
        assert told.dtype == torch.float32 and told.shape == parameter.shape
        torch.testing.assert_close(told, update, rtol=0, atol=1e-7)  # a step of fp32 at weights of 1
        assert told.norm() > 1e-3
    decayed, other = trained(3, state_dtype=dtype)
    before = decayed.out.weight.detach().clone()
    train(decayed, other, range(3, 4))
    expected = decayed.out.weight.detach() - before * (1 - 0.01 * 0.1)
    torch.testing.assert_close(other.last_update(decayed.out.weight), expected, rtol=0, atol=1e-7)


def test_curvature_is_the_unbiased_mean_of_squares(path: None) -> None:
    model, optimizer = trained(0)
    mean, weight = torch.zeros(8, 32), 0.0
    for step in range(4):
        train(model, optimizer, range(step, step + 1))
        assert model.out.weight.grad is not None
        mean, weight = 0.98 * mean + model.out.weight.grad.square(), 0.98 * weight + 1
    torch.testing.assert_close(optimizer.curvature(model.out.weight), mean / weight)


def test_more_credit_moves_a_block_more_and_the_norm_stays(path: None) -> None:
    (plain, without), (model, optimizer) = trained(3), trained(3)
    heads = model.heads.weight
    optimizer.set_credit({heads: torch.tensor([-9.0, 0.0, 0.5, 9.0])})
    ours, theirs = moved(model, optimizer, 3), moved(plain, without, 3)
    shares = [
        (one.norm() / other.norm()).item()
        for one, other in zip(
            optimizer.last_update(heads).split(8), without.last_update(plain.heads.weight).split(8), strict=True
        )
    ]
    expected = [0.6, 1.0, 2.718281828 ** (0.4 * 0.5), 1.8]  # clipped, none, exp(gain z), clipped; evened alike
    assert [share / shares[1] for share in shares] == pytest.approx(expected, rel=1e-4)
    whole = optimizer.last_update(heads).norm().item()
    assert whole == pytest.approx(without.last_update(plain.heads.weight).norm().item(), rel=1e-5)
    assert torch.equal(ours[model.out.weight], theirs[plain.out.weight]), "no credit was given to it"
    norms = torch.stack([part.norm() for part in without.last_update(plain.heads.weight).split(8)]).square()
    scales = optimizer.state[heads]["scales"]
    assert ((scales.square() * norms).sum() / norms.sum()).item() == pytest.approx(1, rel=1e-5)


def test_a_parameter_without_elements_is_left_alone(path: None) -> None:
    (plain, without), model = trained(3), Net()
    model.empty = nn.Parameter(torch.zeros(3, 0))
    optimizer = c3o.build(CONFIG, model)
    for step in range(3):
        model.empty.grad = torch.zeros(3, 0)
        optimizer.zero_grad(set_to_none=False)
        model.loss(step).backward()
        optimizer.step()
    assert torch.equal(plain.heads.weight, model.heads.weight) and torch.equal(plain.gate, model.gate)
    assert optimizer.metrics() == without.metrics() and model.empty not in optimizer.state


@pytest.mark.parametrize("reason", ["gain", "threshold", "zero"])
def test_credit_that_is_muted_changes_no_bit(path: None, reason: str) -> None:
    (plain, without), (model, optimizer) = trained(3), trained(3)
    strength = {"gain": 1.0, "threshold": 0.005, "zero": 0.0}[reason]
    optimizer.set_credit({p: strength * z.sign() for p, z in some_credit(optimizer).items()})
    if reason == "gain":
        optimizer.gain = 0.0
    train(plain, without, range(3, 6))
    train(model, optimizer, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    assert optimizer.metrics() == without.metrics()
    optimizer.gain = 3.0
    optimizer.set_credit(some_credit(optimizer))
    train(plain, without, range(6, 7))
    train(model, optimizer, range(6, 7))
    assert not torch.equal(plain.out.weight, model.out.weight)


def test_metrics_tell_of_the_last_step(path: None) -> None:
    model, optimizer = trained(0)
    assert optimizer.metrics() == {}
    train(model, optimizer, range(1))
    row = optimizer.metrics()
    assert row["c3o_step_elements"] == sum(p.numel() for p in model.parameters())
    assert (row["c3o_block_scale_mean"], row["c3o_block_scale_std"], row["c3o_block_scaling_batches"]) == (1, 0, 0)
    optimizer.set_credit({model.heads.weight: torch.tensor([1.0, -1.0, 0.5, 0.0])})
    train(model, optimizer, range(1, 2))
    row = optimizer.metrics()
    blocks = sum(len(offsets) - 1 for offsets in optimizer.blocks.values())
    scales = torch.cat([optimizer.state[model.heads.weight]["scales"], torch.ones(blocks - 4)]).double()
    assert row["c3o_block_scale_mean"] == pytest.approx(scales.mean().item())
    assert row["c3o_block_scale_std"] == pytest.approx(scales.std(correction=0).item())
    assert row["c3o_block_scaling_batches"] == 1
    updates = torch.cat([optimizer.last_update(p).flatten() for p in model.parameters()])
    assert row["c3o_update_norm"] == pytest.approx(updates.norm().item(), rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_goes_on_bit_by_bit_after_a_checkpoint(path: None, dtype: str, tmp_path: Path) -> None:
    model, optimizer = trained(3, state_dtype=dtype)
    optimizer.set_credit(some_credit(optimizer))
    train(model, optimizer, range(3, 5))
    torch.save(optimizer.state_dict(), tmp_path / "state")
    other = copy.deepcopy(model)
    restored = c3o.build(CONFIG.model_copy(update={"state_dtype": dtype}), other)
    load_state(restored, torch.load(tmp_path / "state"))
    assert torch.equal(restored.last_update(other.out.weight), optimizer.last_update(model.out.weight))
    assert restored.state[other.gate]["exp_avg"].dtype == optimizer.state[model.gate]["exp_avg"].dtype
    train(model, optimizer, range(5, 9))
    train(other, restored, range(5, 9))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert optimizer.metrics() == restored.metrics()


def test_states_of_both_dtypes_load_into_each_other_and_other_blocks_leave_the_credit() -> None:
    model, wide = trained(3)
    wide.set_credit(some_credit(wide))
    narrow = c3o.build(CONFIG.model_copy(update={"state_dtype": "bf16", "block_size": 32}), model)
    load_state(narrow, copy.deepcopy(wide.state_dict()))
    for parameter in model.parameters():
        ours, theirs = narrow.state[parameter], wide.state[parameter]
        assert torch.equal(ours["exp_avg"], theirs["exp_avg"].bfloat16())
        same = len(narrow.blocks[parameter]) == len(wide.blocks[parameter])
        assert ("credit" in ours) == same == (parameter is not model.out.weight)
    train(model, narrow, range(3, 5))


def test_going_back_to_an_earlier_state_takes_its_credit_back() -> None:
    model, optimizer = trained(3)
    optimizer.set_credit(some_credit(optimizer))
    train(model, optimizer, range(3, 4))
    before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, range(4, 5))
    scales = optimizer.state[model.out.weight]["scales"]
    optimizer.set_credit(some_credit(optimizer, seed=6))
    train(model, optimizer, range(5, 6))
    assert not torch.equal(scales, optimizer.state[model.out.weight]["scales"])
    model.load_state_dict(before)
    load_state(optimizer, state)
    train(model, optimizer, range(4, 5))
    assert torch.equal(scales, optimizer.state[model.out.weight]["scales"])


def test_forgotten_credit_leaves_no_trace() -> None:
    (model, optimizer), (_, never) = trained(3), trained(4)
    optimizer.set_credit(some_credit(optimizer))
    train(model, optimizer, range(3, 4))
    optimizer.forget_credit()
    assert [state.keys() for state in optimizer.state.values()] == [state.keys() for state in never.state.values()]
    train(model, optimizer, range(4, 5))
    assert optimizer.metrics()["c3o_block_scaling_batches"] == 0


def test_credit_may_come_before_the_first_step_and_survive_it() -> None:
    model, optimizer = trained(0)
    optimizer.set_credit(some_credit(optimizer))
    restored = c3o.build(CONFIG, model)
    load_state(restored, copy.deepcopy(optimizer.state_dict()))
    train(model, restored, range(1))
    assert restored.metrics()["c3o_block_scaling_batches"] > 0


def test_the_rounding_has_no_bias() -> None:
    """A second moment that decays by less than half a step of bf16 at a time follows nevertheless."""
    layer = nn.Linear(64, 64, bias=False)
    optimizer = c3o.build(c3o.Config(lr=1e-9, beta2=0.999, state_dtype="bf16"), layer)
    expected = 0.0
    for step in range(300):
        size = 1e-3 if step < 50 else 5e-4
        layer.weight.grad = torch.full((64, 64), size)
        optimizer.step()
        expected = 0.999 * expected + 0.001 * size**2
    assert optimizer.state[layer.weight]["exp_avg_sq"].double().mean().item() == pytest.approx(expected, rel=5e-3)


def test_auto_takes_bf16_for_large_models(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = trained(1)
    assert optimizer.state[model.gate]["exp_avg"].dtype == torch.float32
    monkeypatch.setattr(c3o, "NARROW_FROM", 100)
    model, optimizer = trained(1)
    assert optimizer.state[model.gate]["exp_avg"].dtype == torch.bfloat16
