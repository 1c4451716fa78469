"""pass@k against counting all choices, and the bootstrap against the exact distribution."""

from fractions import Fraction
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco.evaluation import bootstrap
from eco.evaluation.bootstrap import interval
from eco.evaluation.pass_at_k import Checked, mean_pass_at_k, pass_at_k


@pytest.mark.parametrize("samples", range(1, 8))
def test_it_is_the_share_of_all_choices_that_hold_a_passing_one(samples):
    for passed, k in product(range(samples + 1), range(1, samples + 1)):
        choices = list(combinations([True] * passed + [False] * (samples - passed), k))
        assert pass_at_k(samples, passed, k) == pytest.approx(sum(map(any, choices)) / len(choices), abs=1e-15)


@given(st.data(), st.integers(1, 20_000))
def test_large_numbers_neither_overflow_nor_cancel(data, samples):
    passed, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, min(samples, 1000)))
    exact = 1 - Fraction(comb(samples - passed, k), comb(samples, k))
    assert pass_at_k(samples, passed, k) == pytest.approx(float(exact), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("samples", "k"), [(3, 4), (0, 1), (5, 0), (5, -1)])
def test_what_cannot_be_told_is_an_error_and_not_0(samples, k):
    with pytest.raises(ValueError, match=f"pass@{k} cannot be told from {samples} samples"):
        pass_at_k(samples, 0, k)


def test_the_estimate_is_unbiased():
    """Over many draws of 5 samples its mean is the true 1 - (1 - p) ** k; 1 - (1 - c / n) ** k would be 0.02 off."""
    passed = np.random.default_rng(0).binomial(5, 0.3, size=40_000)
    estimates = np.array([pass_at_k(5, count, 3) for count in range(6)])[passed]
    assert estimates.mean() == pytest.approx(1 - 0.7**3, abs=0.006)


def test_a_set_is_the_mean_over_the_tasks_with_enough_samples():
    tasks = [Checked(4, 1), Checked(4, 4), Checked(2, 0)]
    assert mean_pass_at_k(tasks, 1, 0)[::3] == (pytest.approx((0.25 + 1 + 0) / 3), 3)
    assert mean_pass_at_k(tasks, 3, 0)[::3] == (pytest.approx((0.75 + 1) / 2), 2)
    with pytest.raises(ValueError, match="no task has 5 completions"):
        mean_pass_at_k(tasks, 5, 0)
    with pytest.raises(ValueError, match="no task has 1 completions"):
        mean_pass_at_k([], 1, 0)


def test_the_interval_holds_the_share_it_says_of_all_resamples():
    """Of 6 values all 6 ** 6 resamples can be listed."""
    values = [0.0, 0.1, 0.35, 0.5, 0.5, 1.0]
    means = np.array(list(product(values, repeat=6))).mean(1)
    low, high = interval(values, seed=3)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.04)
    narrow = interval(values, seed=3, confidence=0.5)
    assert low < narrow[0] < np.mean(values) < narrow[1] < high


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    draws = np.random.default_rng(1).binomial(1, 0.4, size=(150, 60))
    covered = [low <= 0.4 <= high for low, high in (interval(row, seed=index) for index, row in enumerate(draws))]
    assert 0.88 <= np.mean(covered) <= 1


def test_the_interval_depends_on_the_seed_alone(monkeypatch):
    values = np.random.default_rng(0).random(50)
    first = interval(values, seed=7)
    np.random.seed(1)
    assert interval(values, seed=7) == first != interval(values, seed=8)
    monkeypatch.setattr(bootstrap, "_CELLS", 1000)
    assert interval(values, seed=7) == first, "the size of a block changes the resamples"


def test_equal_values_have_no_width_and_none_are_refused():
    assert interval([1.0] * 5, seed=0) == (1.0, 1.0)
    with pytest.raises(ValueError, match="nothing was measured"):
        interval([], seed=0)
