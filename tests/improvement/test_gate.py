"""The gate: seldom deceived by chance, never by a loss; each check stands for itself, and a hole in the judge stops."""

import copy
import json
import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from cribs import untrained

from eco.evaluation.bootstrap import interval
from eco.evaluation.pass_at_k import Checked
from eco.improvement.gate import Evidence, GateConfig, decide, reload_difference, weights_are_finite
from eco.improvement.measure import Measurement, Suite

CONFIG = GateConfig()
SOUND = Evidence(finite=True, reload_difference=0.0, canaries_passed=0)
RATES = {"uniform": (1, 1), "rare": (0.05, 2), "mostly solved": (3, 0.3), "all or nothing": (0.1, 0.1)}
"""How the tasks' true success rates are spread: Beta distributions."""


def suite(passed, samples=4):
    return Suite(samples, {f"t{at}": Checked(samples, int(count)) for at, count in enumerate(passed)})


def measured(passed, others=None, **figures):
    suites = {"learnt": suite(passed), **{name: suite(counts) for name, counts in (others or {}).items()}}
    return Measurement(suites, **{"unique_share": 0.5, "entropy": 1.0, "bits_per_byte": 2.0, **figures})


def decided(before, after, facts=SOUND, config=CONFIG, start=None, best=None):
    best = best or {name: s.pass_at_1 for name, s in before.suites.items()}
    return decide(before, after, start or before, best, facts, config, seed=0)


def promoted(rng, shape, change, pairs):
    """How often an update is kept that moves each of 200 tasks' success rates by `change`, of `pairs` simulated."""
    kept = 0
    for _ in range(pairs):
        rates = rng.beta(*RATES[shape], 200)
        first, second = (rng.binomial(4, p) for p in (rates, np.clip(rates + change, 0, 1)))
        kept += decided(measured(first), measured(second)).promote
    return kept


@pytest.mark.parametrize("shape", RATES)
def test_an_update_that_changes_nothing_is_kept_as_seldom_as_the_confidence_says(shape):
    """One-sided 5 %; of 250 pairs more than 24 would be chance in one test of a thousand."""
    assert promoted(np.random.default_rng(1), shape, 0.0, 250) <= 24


def test_fifteen_points_are_kept_and_a_loss_never():
    rng = np.random.default_rng(2)
    assert promoted(rng, "uniform", 0.15, 50) >= 49
    for shape in ("uniform", "mostly solved", "all or nothing"):
        assert promoted(rng, shape, -0.15, 50) == 0


def test_the_same_weights_gain_nothing():
    same = measured([0, 1, 2, 3, 4] * 40)
    decision = decided(same, same)
    assert not decision.promote and not decision.stop
    assert [check.name for check in decision.checks if not check.passed] == ["gain in pass@1 of learnt"]


BEFORE = measured([0, 1, 2, 3] * 20, {"other": [2] * 80})
AFTER = measured([1, 2, 3, 4] * 20, {"other": [2] * 80})


def with_figures(measurement, **figures):
    return replace(measurement, **figures)


@pytest.mark.parametrize(
    ("name", "after", "facts"),
    [
        ("gain in pass@1 of learnt", measured([0, 1, 2, 4] * 2 + [0, 1, 2, 3] * 18, {"other": [2] * 80}), SOUND),
        ("gain in pass@1 of learnt", measured([0, 1, 2, 2] * 20, {"other": [2] * 80}), SOUND),
        ("pass@1 of other", measured([1, 2, 3, 4] * 20, {"other": [2] * 63 + [1] * 17}), SOUND),
        ("bits per byte", with_figures(AFTER, bits_per_byte=2.061), SOUND),
        ("bits per byte", with_figures(AFTER, bits_per_byte=math.nan), SOUND),
        ("entropy", with_figures(AFTER, entropy=0.099), SOUND),
        ("entropy", with_figures(AFTER, entropy=math.nan), SOUND),
        ("unique share", with_figures(AFTER, unique_share=0.049), SOUND),
        ("pass@4", measured([4] * 50 + [0] * 30, {"other": [2] * 80}), SOUND),
        ("canaries", AFTER, replace(SOUND, canaries_passed=1)),
        ("finite weights", AFTER, replace(SOUND, finite=False)),
        ("reload", AFTER, replace(SOUND, reload_difference=1e-7)),
        ("reload", AFTER, replace(SOUND, reload_difference=math.nan)),
    ],
)
def test_each_check_alone_takes_an_update_back(name, after, facts):
    decision = decided(BEFORE, after, facts)
    failed = [check.name for check in decision.checks if not check.passed]
    assert name in failed and not decision.promote and name in decision.reason
    if name != "gain in pass@1 of learnt":
        assert failed == [name]
    assert decision.stop == (name == "canaries")
    assert json.loads(json.dumps(decision.as_json(), allow_nan=False))["promoted"] is False


def test_what_is_within_every_bound_is_kept_and_says_by_how_much():
    after = measured([1, 2, 3, 4] * 20, {"other": [2] * 64 + [1] * 16}, bits_per_byte=2.06, entropy=0.1,
                     unique_share=0.05)  # fmt: skip
    decision = decided(BEFORE, after)
    assert decision.promote and not decision.stop
    evidence = decision.checks[0].evidence
    assert (evidence["before"], evidence["after"], evidence["gain"]) == pytest.approx((0.375, 0.625, 0.25))
    assert evidence["tasks"] == 80 and evidence["low"] == evidence["high"] == 0.25
    assert "gain 0.25" in decision.reason
    found = decision.as_json()
    assert found["checks"][2] == {
        "name": "pass@1 of other", "passed": True, "threshold": 0.45, "evidence": {"after": 0.45, "best": 0.5},
    }  # fmt: skip


def test_bounds_are_held_against_the_start_and_the_best_and_not_against_the_last_round():
    start = with_figures(BEFORE, bits_per_byte=1.95, entropy=11.0)
    decision = decided(BEFORE, AFTER, start=start, best={"learnt": 0.4, "other": 0.56})
    failed = [check.name for check in decision.checks if not check.passed]
    assert failed == ["pass@1 of other", "entropy"]
    assert not decided(BEFORE, AFTER, start=with_figures(BEFORE, bits_per_byte=1.94)).promote


def test_the_thresholds_are_the_settings():
    assert not decided(BEFORE, AFTER, config=GateConfig(min_gain=0.25)).promote
    assert decided(BEFORE, AFTER, config=GateConfig(min_gain=0.24)).promote
    small = measured([0, 1, 2, 4] * 5 + [0, 1, 2, 3] * 10 + [0, 1, 2, 2] * 5, {"other": [2] * 80})
    assert not decided(BEFORE, small).promote
    rising = measured([0, 1, 2, 4] * 2 + [0, 1, 2, 3] * 17 + [0, 1, 2, 2], {"other": [2] * 80})
    assert decided(BEFORE, rising, config=GateConfig(confidence=0.1)).promote and not decided(BEFORE, rising).promote


def test_the_interval_of_the_gain_is_that_of_all_resamples_of_pairs():
    before, after = measured([0, 4, 1, 2, 2, 0]), measured([1, 4, 4, 2, 1, 2])
    differences = np.array([1, 0, 3, 0, -1, 2]) / 4
    means = np.array([np.mean(chosen) for chosen in product(differences, repeat=6)])
    evidence = decided(before, after).checks[0].evidence
    assert (evidence["low"], evidence["high"]) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])), abs=0.02)
    apart = interval([0, 1, 0.25, 0.5, 0.5, 0], 0, 0.9), interval([0.25, 1, 1, 0.5, 0.25, 0.5], 0, 0.9)
    assert evidence["high"] - evidence["low"] < apart[1][1] - apart[0][0] - (apart[1][0] - apart[0][1])


def test_measurements_of_different_tasks_cannot_be_compared():
    other = Measurement({"learnt": Suite(4, {"another": Checked(4, 4)})}, 0.5, 1.0, 2.0)
    with pytest.raises(ValueError, match="at least one task"):
        decided(BEFORE, other)


def test_one_number_that_is_not_finite_is_found():
    model = untrained().model
    assert weights_are_finite(model)
    for bad in (math.nan, math.inf):
        spoiled = copy.deepcopy(model)
        list(spoiled.parameters())[-1].data.view(-1)[-1] = bad
        assert not weights_are_finite(spoiled)


def test_a_reloaded_model_is_compared_by_all_of_its_logits():
    model, reloaded = untrained().model, untrained().model
    probe = torch.arange(40).reshape(2, 20)
    model.train()
    assert reload_difference(model, reloaded, probe) == 0.0 and model.training
    with torch.no_grad():
        next(reloaded.parameters())[39, 0] += 1e-3  # read at the last position only
    assert 0 < reload_difference(model, reloaded, probe) < 1
    with torch.no_grad():
        next(reloaded.parameters())[39, 0] = math.nan
    assert math.isnan(reload_difference(model, reloaded, probe))
