"""Student's interval against the printed tables and against a simulation."""

import random

import pytest

from eco.evaluation.intervals import student, t_quantile

PRINTED = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 10: 2.228, 30: 2.042, 120: 1.980}


@pytest.mark.parametrize("freedom", PRINTED)
def test_quantiles_are_those_of_the_tables(freedom):
    assert t_quantile(freedom) == pytest.approx(PRINTED[freedom], abs=6e-4)


def test_of_other_confidences_too():
    assert t_quantile(4, 0.99) == pytest.approx(4.604, abs=6e-4)
    assert t_quantile(4, 0.5) == pytest.approx(0.741, abs=6e-4)


def test_nineteen_of_twenty_intervals_hold_the_mean():
    dice = random.Random(0)
    intervals = [student([dice.gauss(3.0, 2.0) for _ in range(4)]) for _ in range(4000)]
    assert sum(low <= 3 <= high for low, high in intervals) / 4000 == pytest.approx(0.95, abs=0.01)


def test_one_measurement_has_no_interval():
    with pytest.raises(ValueError, match="two measurements at least, not 1"):
        student([1.0])
