"""Credit: the prediction against blocks really left out, noise told from signal, the audit's say, what is kept."""

import copy
from math import comb
from types import SimpleNamespace

import pytest
import torch
from half_noise import CLASSES, HELD_OUT, HIDDEN, held_out, training

from eco.models.contract import ModelConfig
from eco.optim.c3o import C3O
from eco.training import credit as credit_module
from eco.training.callbacks import Callback
from eco.training.counterfactual import correlation, measured, predicted, spread_sample
from eco.training.credit import Credit
from eco.training.precision import Precision
from eco.training.probe import Probe

FP32 = Precision("fp32", torch.device("cpu"))


class Rows(Callback):
    """Keeps the rows, and looks in after each step."""

    def __init__(self, look=lambda trainer: None):
        self.rows, self.look = [], look

    def step(self, trainer, row):
        self.rows.append(dict(row))
        self.look(trainer)


def watched(run, look=lambda trainer: None):
    run.callbacks.append(Rows(look))
    run.fit()
    return run.callbacks[-1].rows


def left_out(model, optimizer, windows):
    """(blocks,) float64 and the slow way: the loss without each block's update, less the loss with it."""
    model = copy.deepcopy(model).double()
    copies = dict(zip(optimizer.blocks, model.parameters(), strict=True))

    def loss():
        with torch.no_grad():
            return sum(model.training_step(windows).losses.values()).item()

    whole, credits = loss(), []
    for parameter, offsets in optimizer.blocks.items():
        change = optimizer.last_update(parameter).double().flatten()
        weights = copies[parameter].detach().view(-1)
        for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            kept = weights[begin:end].clone()
            weights[begin:end] -= change[begin:end]
            credits.append(loss() - whole)
            weights[begin:end] = kept
    return torch.tensor(credits, dtype=torch.float64)


@pytest.mark.parametrize("steps", [5, 40])
def test_the_prediction_is_what_leaving_a_block_out_costs(steps):
    run = training(steps=steps, credit=False)
    run.fit()
    windows = held_out(0, HELD_OUT)
    true = left_out(run.model, run.optimizer, windows)
    guess, reach = predicted(run.optimizer, Probe(run.model, FP32, HELD_OUT), windows, tokens=64)
    assert guess.shape == true.shape and guess.dtype == torch.float64
    assert correlation(guess, true) > 0.98
    clear = true.abs() > true.abs().median()
    assert torch.equal(guess[clear].sign(), true[clear].sign())
    assert (reach > guess.abs()).all()
    assert all(parameter.grad is None for parameter in run.model.parameters())


def test_the_prediction_is_exact_where_the_loss_is_quadratic_in_each_weight():
    target, curved = torch.linspace(-1, 1, 10), torch.linspace(0.5, 4, 10)
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.linspace(2, -1, 10))
    model.still = torch.nn.Parameter(torch.ones(3))
    model.carries, model.loss_weights, model.main_losses = False, {}, None
    model.config = ModelConfig(family="quadratic")
    model.training_step = lambda batch: SimpleNamespace(
        losses={"square": (curved * (model.weight - target).square()).sum() / 2 + model.still.sum()}
    )
    change = torch.tensor([0.1, -0.2, 0.3, 0.4, -0.5, 0.1, 0.0, 0.2, -0.1, 0.3])
    optimizer = SimpleNamespace(
        blocks={model.weight: torch.tensor([0, 3, 4, 10]), model.still: torch.tensor([0, 3])},
        last_update=lambda parameter: change.clone(),
        curvature=lambda parameter: curved / 50,
    )
    model.weight.grad = torch.ones(10)  # it moved; the other did not
    guess, reach = predicted(optimizer, Probe(model, FP32, 1), {"tokens": torch.zeros(1, 1)}, tokens=50)
    off = model.weight.detach() - target
    each = curved * ((off - change).square() - off.square()) / 2
    expected = torch.stack([*(part.sum() for part in each.split([3, 1, 6])), torch.zeros(())])
    torch.testing.assert_close(guess.float(), expected)
    slopes = (curved * off * change).abs()
    torch.testing.assert_close(reach.float(), torch.stack([*map(sum, slopes.split([3, 1, 6])), torch.zeros(())]))


def test_the_audit_measures_the_same_and_puts_every_bit_back():
    run = training(steps=20, credit=False)
    run.fit()
    windows = held_out(0, 256)
    true = left_out(run.model, run.optimizer, windows)
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    blocks = [9, 0, 3, 8]
    found = measured(run.optimizer, run.model, Probe(run.model, FP32, 256), windows, blocks)
    torch.testing.assert_close(found, true[blocks], rtol=0.02, atol=5e-7)
    assert all(torch.equal(one, other) for one, other in zip(run.model.parameters(), before, strict=True))


def test_a_sample_of_blocks_spans_the_credit():
    credit = torch.tensor([0.0, 5.0, -3.0, 1.0, 0.0, 2.0, 4.0])
    dice = torch.Generator().manual_seed(0)
    assert spread_sample(credit, 5, dice) == [2, 3, 5, 6, 1]
    two = [spread_sample(credit, 2, dice) for _ in range(50)]
    assert {first for first, _ in two} == {2, 3, 5} and {second for _, second in two} == {6, 1}
    assert spread_sample(torch.zeros(4), 3, dice) == []
    assert correlation(torch.zeros(0), torch.zeros(0)) == correlation(torch.ones(3), torch.arange(3.0)) == 0


def scales(run):
    """(pairs, 2): of the first layer's blocks of signal and of noise, as they lie beside each other."""
    state = run.optimizer.state[run.model.first]
    return state.get("scales", torch.ones(8)).view(-1, 2)


def sign_test(pairs):
    """The chance that so many of the pairs, or more, have less noise than signal if it were all the same."""
    differ = pairs[pairs[:, 0] != pairs[:, 1]]
    more = int((differ[:, 0] > differ[:, 1]).sum())
    return sum(comb(len(differ), k) for k in range(more, len(differ) + 1)) / 2 ** len(differ)


def pairs_over_seeds(**settings):
    runs = [training(seed, **settings) for seed in range(5)]
    for run in runs:
        run.fit()
    return torch.cat([scales(run) for run in runs])


def test_blocks_that_see_noise_are_scaled_down(monkeypatch):
    pairs = pairs_over_seeds()
    assert sign_test(pairs) < 0.01
    assert pairs[:, 0].mean() > 1.05 and pairs[:, 1].mean() < 0.95
    assert sign_test(pairs_over_seeds(credit=False)) == 1
    given = C3O.set_credit
    flipped = lambda self, scores: given(self, {p: -z for p, z in scores.items()})  # noqa: E731
    monkeypatch.setattr(C3O, "set_credit", flipped)
    assert sign_test(pairs_over_seeds()) > 0.99


def test_credit_of_noise_alone_is_hardly_heard():
    """Labels that nothing tells: t is that of chance, and few blocks pass it."""
    run = training(steps=120)
    run.model.labels = run.model.labels[
        torch.randperm(len(run.model.labels), generator=torch.Generator().manual_seed(0))
    ]
    rows = [row for row in watched(run) if "c3o_credit_t" in row]
    assert rows[-1]["c3o_credit_signal"] < 0.1


def test_the_rows_say_what_was_measured_and_the_ledger_counts_scaled_updates():
    run = training(steps=24)
    rows = watched(run)
    measured_rows = [row for row in rows if "c3o_credit_signal" in row]
    assert [row["step"] for row in measured_rows] == list(range(2, 25, 2))
    assert "c3o_credit_audit_corr" not in rows[5] and rows[7]["c3o_credit_audit_corr"] > 0.9
    assert all(row["c3o_credit_signal"] == 0 for row in measured_rows[:3])
    assert measured_rows[3]["c3o_credit_signal"] > 0
    assert sum(row["c3o_loss_gain"] for row in measured_rows) > 0, "the updates of a model that learns help"
    scaled = [row["step"] for row in measured_rows if row["c3o_block_scale_std"] > 0]
    row = run.ledger.row()
    assert scaled == list(range(10, 25, 2)) and row["feature_c3o_credit_effective_calls"] == len(scaled)
    assert row["feature_c3o_credit_evidence"] == measured_rows[-1]["c3o_block_scale_std"]


def test_an_audit_that_fails_takes_the_credit_away_until_one_passes(monkeypatch):
    """The first two audits, at the fourth measurement and at step 20, find the opposite of what was predicted."""
    real = credit_module.measured
    monkeypatch.setattr(
        credit_module, "measured", lambda o, m, p, w, b: real(o, m, p, w, b) * (-1 if run.step <= 20 else 1)
    )
    run = training(steps=60)
    gains = {}
    rows = watched(run, lambda trainer: gains.setdefault(trainer.step, trainer.optimizer.gain))
    assert [gains[step] for step in (6, 8, 20, 38, 40, 60)] == [0.4, 0, 0, 0, 0.4, 0.4]
    assert rows[19]["c3o_credit_audit_corr"] < -0.9 and rows[39]["c3o_credit_audit_corr"] > 0.9
    stds = [row["c3o_block_scale_std"] for row in rows]
    assert not any(stds[:40]) and all(stds[40:])


def weights(run):
    return [parameter.detach().clone() for parameter in run.model.parameters()]


def test_measuring_changes_nothing_by_itself():
    plain, credited = training(credit=False), training(gain=0.0)
    plain.fit()
    credited.fit()
    assert credited.callbacks[0].state_dict()["count"] == 30
    assert all(torch.equal(one, other) for one, other in zip(weights(plain), weights(credited), strict=True))


def test_what_was_measured_is_kept_from_one_session_to_the_next():
    whole = training(steps=41)
    whole.fit()
    first = training(steps=21)
    first.fit()
    second = training(steps=41)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.fit()
    assert all(torch.equal(one, other) for one, other in zip(weights(whole), weights(second), strict=True))
    one, other = (run.callbacks[0].state_dict() for run in (whole, second))
    assert all(torch.equal(one.pop(name), other.pop(name)) for name in ("blocks", "mean", "square"))
    assert one == other


def test_a_lost_trust_is_kept_and_so_is_one_that_was_never_lost():
    run = training(steps=12)
    run.fit()
    credit, optimizer = run.callbacks[0], run.optimizer
    trusted = copy.deepcopy(credit.state_dict())
    credit.load_state_dict({**trusted, "correlation": 0.1})
    assert optimizer.gain == 0
    credit.load_state_dict(trusted)
    assert optimizer.gain == 0.4
    credit.load_state_dict({**trusted, "blocks": torch.tensor([3]), "mean": torch.zeros(3), "correlation": 0.1})
    assert optimizer.gain == 0.4, "measured for other blocks"


def test_tensors_of_one_block_have_nothing_to_compare():
    run = training(credit=False)
    blocks = {run.model.first: torch.tensor([0, 512]), run.model.second: torch.tensor([0, 64, 128])}
    optimizer = SimpleNamespace(blocks=blocks, gain=0.4)
    with pytest.raises(ValueError, match="lower --c3o-block-size"):
        Credit(optimizer, None, held_out, {run.model.first}, None, 0)


def test_blocks_that_are_not_to_be_compared_keep_their_scale():
    run = training(steps=30)
    credit = run.callbacks[0]
    run.callbacks = [Credit(run.optimizer, credit._exact, held_out, {run.model.second}, credit.config, 0)]
    run.model.second.data = torch.randn(HIDDEN, CLASSES, generator=torch.Generator().manual_seed(0))
    run.optimizer.blocks[run.model.second] = torch.tensor([0, 64, 128])
    run.fit()
    assert run.callbacks[0].state_dict()["mean"].abs().min() > 0, "all are measured"
    assert not scales(run).ne(1).any()
