"""The mix: scales that make unlike objectives comparable, weights that follow what helped, an honest regret."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_objectives import CONFIG, batch, totals

from eco.improvement.learn.automix import FLOOR, LARGEST_SCALE, MODES, AutoMix, prior
from eco.improvement.learn.objectives import policy_loss

SHARE = st.floats(0, 1)


@given(SHARE, SHARE, st.lists(st.floats(-1, 1), max_size=8))
@settings(max_examples=60, deadline=None)
def test_weights_and_chances_keep_the_floor_and_sum_to_one(pass_rate, distinct, gains):
    mix = AutoMix()
    for seed, gain in enumerate(gains):
        mix.lead(pass_rate, distinct, seed)
        mix.observe(gain)
    mix.lead(pass_rate, distinct, 99)
    for values in (mix.weights, mix.chances(pass_rate, distinct), prior(pass_rate, distinct)):
        assert sum(values.values()) == pytest.approx(1)
    assert min(mix.weights.values()) == pytest.approx(FLOOR)
    assert min(mix.chances(pass_rate, distinct).values()) >= FLOOR - 1e-12


def leads(mix, gains, updates, seed=0):
    """How often each objective led, over the last half, where `gains` says what an update led by it brings."""
    dice = np.random.default_rng(seed)
    counts = dict.fromkeys(MODES, 0)
    for update in range(updates):
        mix.lead(0.5, 0.5, seed * 100_003 + update)
        leader = max(mix.weights, key=mix.weights.get)
        counts[leader] += update >= updates // 2
        mix.observe(gains.get(leader, 0.0) + 0.01 * dice.standard_normal())
    return counts


@pytest.mark.parametrize("best", MODES)
def test_the_objective_that_helps_most_comes_to_lead(best):
    counts = leads(AutoMix(), {best: 0.05}, 400)
    assert counts[best] > 0.5 * 200
    assert max(counts, key=counts.get) == best


def test_where_all_help_alike_the_prior_stands_on_average():
    counts = [leads(AutoMix(), {}, 60, seed) for seed in range(20)]
    for mode, chance in AutoMix().chances(0.5, 0.5).items():
        assert np.mean([c[mode] for c in counts]) / 30 == pytest.approx(chance, abs=0.12)


def test_the_regret_estimates_what_the_best_objective_would_have_brought():
    """The estimate of a fixed leader's total is unbiased: over many runs its mean is updates x gain."""
    regrets = []
    for seed in range(40):
        mix = AutoMix()
        led = 0
        for update in range(100):
            mix.lead(0.5, 0.5, seed * 1000 + update)
            led += mix.weights["dispo"] > 0.5
            mix.observe(0.02 * (mix.weights["dispo"] > 0.5))
        regrets.append((mix.regret, 0.02 * (100 - led)))
    estimated, true = np.mean(regrets, axis=0)
    assert estimated == pytest.approx(true, rel=0.15)


def test_a_gain_without_an_update_is_nobodys():
    mix = AutoMix()
    before = mix.state_dict()
    mix.observe(0.5)
    assert mix.state_dict() == before


def test_the_prior_is_sigmas_rule():
    weights = prior(0.5, 1.0)  # R = 1/2, V = 1/4: exploit .375, explore .6875, stability 1 after the clip
    raw = [0.15 + 0.45 * 0.375, 0.10 + 0.30 * 0.375, 0.10 + 0.35 * 0.6875, 0.10 + 0.35]
    assert list(weights.values()) == pytest.approx([value / sum(raw) for value in raw])


def test_the_loss_is_the_weighted_sum_of_scaled_objectives():
    new, old, values, mask = batch(0, 0.3)
    mix = AutoMix()
    mix.lead(0.5, 0.5, 0)
    given_ = (old, values, mask, CONFIG, totals(mask))
    _, _, squares = mix.loss(new, *given_)
    norms = {}
    for mode in MODES:
        leaf = new.clone().requires_grad_()
        norms[mode] = torch.autograd.grad(policy_loss(mode, leaf, *given_)[0], leaf)[0].norm().item()
        assert squares[mode].item() == pytest.approx(norms[mode] ** 2)
    mix.record({mode: square.item() for mode, square in squares.items()})
    loss, metrics, _ = mix.loss(new, *given_)
    mean = sum(norms.values()) / 4
    expected = sum(
        mix.weights[mode] * min(LARGEST_SCALE, mean / norms[mode]) * policy_loss(mode, new, *given_)[0]
        for mode in MODES
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for mode in MODES:
        assert metrics[f"component_{mode}_loss"] == policy_loss(mode, new, *given_)[0]


def test_on_policy_every_part_pulls_as_hard_as_its_weight_says():
    """However long completions are, which the token means and the sequence means weigh differently."""
    _, old, values, mask = batch(1, 0.0)
    mix = AutoMix()
    given_ = (old, values, mask, CONFIG, totals(mask))
    mix.record({mode: square.item() for mode, square in mix.loss(old, *given_)[2].items()})
    pulls = []
    for mode in MODES:
        mix.weights = dict.fromkeys(MODES, 0.0) | {mode: 1.0}
        leaf = old.clone().requires_grad_()
        pulls.append(torch.autograd.grad(mix.loss(leaf, *given_)[0], leaf)[0].norm().item())
    assert pulls == pytest.approx([pulls[0]] * 4, rel=1e-6)


def test_what_was_silenced_is_not_shouted_up():
    mix = AutoMix()
    mix.record(dict.fromkeys(MODES, 1.0))
    for _ in range(200):
        mix.record(dict.fromkeys(MODES, 1.0) | {"gspo": 0.0})
    assert mix._scales()["gspo"] == LARGEST_SCALE
    mix.record(dict.fromkeys(MODES, math.nan))
    assert all(map(math.isfinite, mix._scales().values()))


def test_state_survives_json():
    mix = AutoMix()
    for seed in range(5):
        mix.lead(0.3, 0.9, seed)
        mix.observe(0.1 * seed - 0.2)
        mix.record(dict.fromkeys(MODES, 0.5 + seed))
    mix.lead(0.3, 0.9, 5)
    again = AutoMix()
    again.load_state_dict(json.loads(json.dumps(mix.state_dict())))
    for one in (mix, again):
        one.observe(0.3)
        one.lead(0.4, 0.8, 6)
    assert again.state_dict() == mix.state_dict()
    assert again.metrics() == mix.metrics()
