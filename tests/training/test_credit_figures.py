"""Credit against slow figures over two unlike tensors; several processes, little memory, other blocks; audits."""

import copy
from itertools import pairwise
from math import sqrt
from types import SimpleNamespace

import pytest
import torch
from half_noise import HalfNoise, training

from eco.models.contract import Model, ModelConfig, StepOutput
from eco.models.layers.bitlinear import BitLinear
from eco.training import credit as credit_module
from eco.training.callbacks import Callback
from eco.training.counterfactual import Prediction, measured
from eco.training.distributed import World
from eco.training.precision import Precision
from eco.training.probe import Probe

TENSORS = (8, 2)
"""Blocks of the two layers of the classifier."""

BETA, CLIP = 0.8, 1.5


def figures(seed: int) -> Prediction:
    """Of ten blocks: one that stands out, one that did not move, and all of the second layer's gain more by far."""
    dice = torch.Generator().manual_seed(seed)
    credit, reach = torch.randn(10, generator=dice).double(), 1 + torch.rand(10, generator=dice).double()
    credit[3] += 5
    credit[5] = reach[5] = 0
    credit[8] += 8
    credit[8:], reach[8:] = 1000 * credit[8:] + 4000, 1000 * reach[8:]
    return Prediction(1e-4 * credit, 1e-4 * reach)


def standardised(values: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    spread = sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    return [max(-CLIP, min(CLIP, (v - mean) / spread)) for v in values]


def slow(predictions: list[Prediction]) -> tuple[list[float], list[float], float]:
    """z-scores and t of each block after these measurements, and the last one's gain from the mean gain."""
    shares = [
        [c / r if r else 0.0 for c, r in zip(p.credit.tolist(), p.reach.tolist(), strict=True)] for p in predictions
    ]
    rows = [standardised(row[: TENSORS[0]]) + standardised(row[TENSORS[0] :]) for row in shares]
    ages = range(len(rows) - 1, -1, -1)
    weights = [BETA**age / sum(BETA**other for other in ages) for age in ages]
    worth = 1 / sum(w * w for w in weights)
    z, t = [], []
    for block in zip(*rows, strict=True):
        mean = sum(w * v for w, v in zip(weights, block, strict=True))
        variance = sum(w * (v - mean) ** 2 for w, v in zip(weights, block, strict=True))
        t.append(mean * sqrt(max(worth - 1, 0) / max(variance, 1e-4)))
        z.append(mean if abs(t[-1]) >= 2 and len(rows) >= 4 else 0.0)
    gains = [float(p.credit.sum()) for p in predictions]
    return z, t, gains[-1] - sum(w * gain for w, gain in zip(weights, gains, strict=True))


class Looks(Callback):
    """Keeps each step's row, and the credit that the optimizer then has."""

    def __init__(self):
        self.seen = []

    def step(self, trainer, row):
        credit = [trainer.optimizer.state[p]["credit"] for p in trainer.optimizer.blocks]
        self.seen.append((dict(row), torch.cat(credit).tolist()))


def scripted(monkeypatch, steps, world=None):
    """A run that predicts `figures`; what it found: (row, credit) of each step, the tokens it was told."""
    run, looks, told = training(steps=steps, every=1, clip=CLIP, ema_beta=BETA), Looks(), []
    assert tuple(len(offsets) - 1 for offsets in run.optimizer.blocks.values()) == TENSORS
    run.callbacks.append(looks)
    run.world = world or run.world

    def predicted(optimizer, probe, windows, tokens):
        told.append(tokens)
        return figures(run.step)

    monkeypatch.setattr(credit_module, "predicted", predicted)
    run.fit()
    return looks.seen, told


def check(seen, predictions):
    for count in range(1, len(seen) + 1):
        z, t, centred = slow(predictions[:count])
        row, credit = seen[count - 1]
        assert credit == pytest.approx(z, rel=1e-5, abs=1e-6)
        assert row["c3o_credit_signal"] == pytest.approx(sum(map(abs, z)) / 10, rel=1e-5)
        assert row["c3o_credit_t"] == pytest.approx(sum(map(abs, t)) / 10, rel=1e-5)
        assert row["c3o_loss_gain"] == pytest.approx(float(predictions[count - 1].credit.sum()), rel=1e-5)
        assert row["c3o_credit_centered"] == pytest.approx(centred, rel=1e-5, abs=1e-9)


def test_scores_are_those_of_the_slow_figures(monkeypatch):
    seen, told = scripted(monkeypatch, 12)
    check(seen, [figures(step) for step in range(1, 13)])
    assert told == [64] * 12
    assert any(seen[-1][1][:8]) and any(seen[-1][1][8:]) and not all(seen[-1][1])


class Twin(World):
    """One of two processes; of credit and reach the other finds its own, of an audit three times the opposite."""

    def __init__(self):
        super().__init__()
        self.size, self.predictions = 2, []

    def share(self, samples):
        return samples

    def agree(self, flag):
        return flag

    def average(self, tensors):
        listed = [tensor for tensor in tensors if tensor.dtype == torch.float64]
        if len(listed) == 2:
            for tensor, other in zip(listed, figures(100 + len(self.predictions)), strict=True):
                tensor.add_(other).div_(2)
            self.predictions.append(Prediction(*(tensor.clone() for tensor in listed)))
        for tensor in listed if len(listed) == 1 else ():
            tensor.neg_()


def test_processes_go_by_the_mean_of_what_they_find(monkeypatch):
    """Where one rounds otherwise, its scales, its gates and its audit's verdict would be others."""
    world, audited = Twin(), []

    def agreeing(optimizer, model, probe, windows, blocks):
        audited.append(world.predictions[-1].credit[blocks])
        return audited[-1].clone()

    monkeypatch.setattr(credit_module, "measured", agreeing)
    seen, told = scripted(monkeypatch, 8, world)
    assert told == [2 * 64] * 8, "the tokens of all processes"
    check(seen, world.predictions)
    assert len(audited) == 1 and seen[3][0]["c3o_credit_audit_corr"] == pytest.approx(-1)
    assert seen[3][0]["c3o_credit_gain"] == 0


def test_measuring_takes_as_few_rows_at_a_time_as_training_came_down_to(monkeypatch):
    real = HalfNoise.training_step

    def cramped(model, batch, carry=None):
        if torch.is_grad_enabled() and len(batch["tokens"]) > 16:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return real(model, batch, carry)

    monkeypatch.setattr(HalfNoise, "training_step", cramped)
    run = training(steps=4)
    run.fit()
    assert run.micro_batch == 16 and run.callbacks[0].state_dict()["count"] == 2


def test_what_was_measured_for_other_blocks_is_dropped_here_and_by_the_optimizer():
    first, second = training(steps=12), training()
    first.fit()
    state, optimizer = first.callbacks[0].state_dict(), second.optimizer
    optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    credit = second.callbacks[0]
    credit.load_state_dict(copy.deepcopy(state))
    assert credit.state_dict()["count"] == 6 and all("credit" in state for state in optimizer.state.values())
    fresh = training().callbacks[0]
    fresh._optimizer = optimizer
    fresh.load_state_dict({**state, "blocks": torch.tensor(TENSORS[::-1])})  # as many, but others
    assert fresh.state_dict()["count"] == 0 and not fresh.state_dict()["mean"].any()
    assert not any({"credit", "scales"} & state.keys() for state in optimizer.state.values())


class TernaryMap(Model):
    """A ternary layer that keeps its codes, beside what it should have given."""

    def __init__(self) -> None:
        super().__init__()
        self.config = ModelConfig(family="ternary_map")
        self.layer = BitLinear(32, (64,))
        self.init_weights(torch.Generator().manual_seed(0))

    def init_weights(self, generator):
        with torch.no_grad():
            self.layer.weight.copy_(3 * torch.randn(64, 32, generator=generator))

    def weights_changed(self):
        self.layer.weights_changed()

    def training_step(self, batch, carry=None):
        return StepOutput({"square": (self.layer(batch["tokens"]) - 1).square().mean()})

    def flops_per_token(self):
        return 6.0 * 32 * 64


def test_an_audit_of_weights_that_are_kept_as_codes_leaves_blocks_and_codes_as_they_were():
    """The layer looks at every 32nd weight whether any was written to: of those in the second block it sees none."""
    model, dice = TernaryMap(), torch.Generator().manual_seed(1)
    weight, offsets = model.layer.weight, [0, 1, 32, 96, 2048]
    change = torch.randn(64, 32, generator=dice)
    batch = {"tokens": torch.randn(48, 32, generator=dice)}
    before = weight.detach().clone()
    assert not torch.equal(before - change + change, before), "to add a block back would round"
    probe = Probe(model, Precision("fp32", torch.device("cpu")), rows=48)
    whole = probe.loss(batch)
    optimizer = SimpleNamespace(blocks={weight: torch.tensor(offsets)}, last_update=lambda parameter: change.clone())
    expected = []
    for begin, end in pairwise(offsets):
        other = TernaryMap()
        with torch.no_grad():
            other.layer.weight.view(-1)[begin:end] -= change.view(-1)[begin:end]
        expected.append(Probe(other, Precision("fp32", torch.device("cpu")), rows=48).loss(batch) - whole)
    found = measured(optimizer, model, probe, batch, [1, 3, 0, 2, 1])
    assert found.tolist() == pytest.approx([expected[block] for block in (1, 3, 0, 2, 1)], rel=1e-4, abs=1e-6)
    assert abs(expected[1]) > 1e-3
    assert torch.equal(weight, before) and probe.loss(batch) == whole
