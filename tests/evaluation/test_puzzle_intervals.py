"""Wilson's interval against published values and against the equation that it solves."""

from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco.evaluation.intervals import wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_values_of_newcombe_1998(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_ends_lie_as_far_from_the_share_as_their_own_deviation_says(case):
    successes, trials = case
    share, z = successes / trials, NormalDist().inv_cdf(0.975)
    low, high = wilson(successes, trials)
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert (share - end) ** 2 == pytest.approx(z * z * end * (1 - end) / trials, rel=1e-6, abs=1e-12)


def test_nothing_measured_has_no_interval():
    with pytest.raises(ValueError, match="nothing was measured"):
        wilson(0, 0)
