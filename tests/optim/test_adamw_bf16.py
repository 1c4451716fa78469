"""AdamW with bf16 moments: it follows fp32, its rounding has no bias, and a run can be repeated and continued."""

import copy
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eco.kernels import native
from eco.kernels.adamw import adamw_, cpu, eager, key, reference
from eco.kernels.adamw.rule import Rule, mix
from eco.optim import adamw
from eco.optim.contract import load_state

CONFIG = adamw.Config(lr=0.01, state_dtype="bf16")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """A regression with a matrix, its bias, and rows that seldom have a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(16, 24), nn.Linear(24, 8)
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(0.3 * randn(*parameter.shape, seed=number))

    def loss(self, step: int) -> Tensor:
        rows = torch.randint(16, (12,), generator=torch.Generator().manual_seed(step))
        return (self.layer(self.table(rows).tanh()) - randn(16, 8, seed=99)[rows]).square().mean()


def train(model: Net, optimizer: torch.optim.Optimizer, steps: range) -> float:
    loss = torch.zeros(())
    for step in steps:
        optimizer.zero_grad()
        loss = model.loss(step)
        loss.backward()
        optimizer.step()
    return loss.item()


def moments(size: int) -> list[Tensor]:
    """Weight, gradient and bf16 moments of realistic sizes."""
    return [
        randn(size),
        1e-3 * randn(size, seed=1),
        (1e-3 * randn(size, seed=2)).bfloat16(),
        (1e-6 * randn(size, seed=3).square()).bfloat16(),
    ]


def test_one_step_is_the_papers(path: str) -> None:
    rule = Rule(0.01, 0.9, 0.95, 1e-8, 0.1, 3)
    weight, gradient, mean, square = moments(1003)
    old = [x.double() for x in (weight, gradient, mean, square)]
    expected = reference.adamw(*old, **asdict(rule))
    adamw_(weight, gradient, mean, square, rule, 5)
    torch.testing.assert_close(weight.double(), expected[0], rtol=1e-6, atol=1e-8)
    for found, right in zip((mean, square), expected[1:], strict=True):
        assert found.dtype == torch.bfloat16
        assert ((found.double() - right).abs() <= 2**-7 * right.abs()).all()  # one step of bf16
        assert not torch.equal(found, right.bfloat16()), "rounded to nearest"


@pytest.mark.parametrize("size", [1, 31, 70_001])
def test_torch_and_cpp_agree_bit_for_bit(size: int) -> None:
    if native.library() is None:
        pytest.skip("no C++ kernels on this machine")
    ours, theirs = moments(size), moments(size)
    for count in range(1, 6):
        rule = Rule(0.01, 0.9, 0.95, 1e-8, 0.1, count)
        cpu.adamw_(*ours, rule, key(count, 3))
        eager.adamw_(*theirs, rule, key(count, 3))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_pieces_draw_what_the_whole_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = moments(1000), moments(1000)
    rule = Rule(0.01, 0.9, 0.95, 1e-8, 0.1, 1)
    eager.adamw_(*whole, rule, 77)
    monkeypatch.setattr(eager, "CHUNK", 64)
    eager.adamw_(*pieces, rule, 77)
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))


@pytest.mark.parametrize("value", [1.001, -3.7e-5, 2.3e-12])
def test_rounding_has_no_bias(value: float) -> None:
    x = torch.full((200_000,), value)
    bits = mix(torch.arange(len(x)) ^ key(1, 0))
    for drawn in (bits & 0xFFFF, bits >> 16):
        rounded = eager.rounded(x, drawn)
        assert len(rounded.unique()) == 2
        step = rounded.double().unique().diff().abs().item()
        # the mean of 200 000 draws lies within five of its standard deviations
        assert abs(rounded.double().mean().item() - x[0].double().item()) < 5 * step / 2 / len(x) ** 0.5


def test_rounding_keeps_what_bf16_can_hold_and_what_is_not_a_number() -> None:
    exact = torch.tensor([0.0, -0.0, 1.0, -2.5, torch.inf, -torch.inf, torch.nan])
    for bits in (0, 1, 0x7FFF, 0xFFFF):
        rounded = eager.rounded(exact, torch.full((7,), bits))
        torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0, equal_nan=True)


def test_draws_differ_between_steps_parameters_and_moments() -> None:
    index = torch.arange(10_000)
    streams = [mix(index ^ key(count, number)) for count in (1, 2) for number in (0, 1)]
    halves = [half.double() for s in streams for half in (s & 0xFFFF, s >> 16)]
    correlations = torch.corrcoef(torch.stack(halves)) - torch.eye(len(halves))
    assert correlations.abs().max() < 0.05
    assert len({mix(i) for i in range(1000)}) == 1000


def test_small_changes_move_the_second_moment(path: str) -> None:
    """beta2 of 0.999 changes it by less than half a step of bf16 at a time: rounded to nearest it would stand still."""
    weight, gradient = torch.zeros(4096), torch.full((4096,), 1e-3)
    mean, square = (torch.zeros(4096, dtype=torch.bfloat16) for _ in range(2))
    square.fill_(2e-6)
    expected = square[0].double().item()
    for count in range(1, 301):
        adamw_(weight, gradient, mean, square, Rule(0.0, 0.9, 0.999, 1e-8, 0.0, count), 0)
        expected = 0.999 * expected + 0.001 * 1e-6
    assert square.double().mean().item() == pytest.approx(expected, rel=2e-3)
    assert expected < 1.8e-6


def test_follows_fp32_over_200_steps(path: str) -> None:
    narrow, wide = Net(), Net()
    ours = train(narrow, adamw.build(CONFIG, narrow), range(200))
    theirs = train(wide, adamw.build(CONFIG.model_copy(update={"state_dtype": "fp32"}), wide), range(200))
    start = Net()
    for a, b, first in zip(narrow.parameters(), wide.parameters(), start.parameters(), strict=True):
        assert (a - b).norm() < 0.02 * (b - first).norm()
    assert ours == pytest.approx(theirs, rel=0.05)
    assert ours < 0.2 * start.loss(199).item()


def test_default_is_torchs_own() -> None:
    assert type(adamw.build(adamw.Config(), Net())) is torch.optim.AdamW


def resumed(state: dict[str, Any], model: Net) -> torch.optim.Optimizer:
    optimizer = adamw.build(CONFIG, model)
    load_state(optimizer, state)
    return optimizer


def test_goes_on_bit_by_bit_after_a_checkpoint(path: str, tmp_path: Any) -> None:
    model = Net()
    optimizer = adamw.build(CONFIG, model)
    train(model, optimizer, range(5))
    torch.save(optimizer.state_dict(), tmp_path / "state")
    other = copy.deepcopy(model)
    restored = resumed(torch.load(tmp_path / "state"), other)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        for name, moment in restored.state[two].items():
            assert torch.equal(moment, optimizer.state[one][name])
            assert moment.dtype == (torch.float32 if name == "step" else torch.bfloat16)
    train(model, optimizer, range(5, 10))
    train(other, restored, range(5, 10))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_states_of_both_dtypes_load_into_each_other() -> None:
    model = Net()
    wide = adamw.build(adamw.Config(lr=0.01), model)
    train(model, wide, range(3))
    narrow = resumed(copy.deepcopy(wide.state_dict()), model)
    back = adamw.build(adamw.Config(lr=0.01), model)
    load_state(back, copy.deepcopy(narrow.state_dict()))
    for parameter in model.parameters():
        assert narrow.state[parameter]["exp_avg"].dtype == torch.bfloat16
        assert back.state[parameter]["exp_avg"].dtype == torch.float32
        torch.testing.assert_close(
            back.state[parameter]["exp_avg_sq"], wide.state[parameter]["exp_avg_sq"], rtol=2**-8, atol=0
        )
        assert back.state[parameter]["step"] == narrow.state[parameter]["step"] == 3
    train(model, narrow, range(3, 5))
    train(model, back, range(3, 5))


def test_threads_change_no_bit(path: str) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            tensors = moments(70_001)
            adamw_(*tensors, Rule(0.01, 0.9, 0.95, 1e-8, 0.1, 1), 0)
            found.append(tensors)
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_step_counts_as_a_write(path: str) -> None:
    model = Net()
    optimizer = adamw.build(CONFIG, model)
    version = model.layer.weight._version
    train(model, optimizer, range(1))
    assert model.layer.weight._version > version
