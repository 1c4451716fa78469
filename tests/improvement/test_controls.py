"""Controls take one cause of a gain away, and are neither harmed nor favoured by what is left."""

from dataclasses import replace

import pytest

from eco.evaluation.bootstrap import interval, interval_over_runs
from eco.evaluation.pass_at_k import Checked
from eco.improvement.controls import as_control, extra_steps
from eco.improvement.gate import Decision
from eco.improvement.measure import Measurement, Suite

REFUSED = Decision(promote=False, stop=False, reason="failed: gain", checks=())


def measured(*passed):
    return Measurement({"set": Suite(4, {str(n): Checked(4, p) for n, p in enumerate(passed)})}, 1.0, 1.0, 2.0)


@pytest.mark.parametrize(("after", "kept"), [((1, 2, 0), True), ((1, 1, 0), True), ((0, 1, 0), False)])
def test_a_control_is_kept_unless_it_fell(after, kept):
    decision = as_control(REFUSED, measured(1, 1, 0), measured(*after))
    assert decision.promote is kept and "the method would have failed: gain" in decision.reason


def test_a_canary_stops_a_control_too():
    assert not as_control(replace(REFUSED, stop=True), measured(0, 0), measured(4, 4)).promote


def test_what_is_not_sampled_is_trained():
    assert extra_steps(0, 100.0) == 0 and extra_steps(101, 100.0) == 2


def test_the_interval_over_runs_knows_that_runs_differ():
    alike, apart = [[0.0, 1.0] * 50] * 3, [[0.0] * 100, [0.5] * 100, [1.0] * 100]
    one = interval(alike[0] * 3, seed=0)
    low, high = interval_over_runs(alike, seed=0)
    assert (low, high) == pytest.approx(one, abs=0.02)
    low, high = interval_over_runs(apart, seed=0)  # between the tasks of a run there is nothing, between runs all
    assert low < 0.1 and high > 0.9
    assert interval_over_runs([alike[0]], seed=0) == pytest.approx(interval(alike[0], seed=0), abs=0.02)
    with pytest.raises(ValueError, match="at least one run"):
        interval_over_runs([], seed=0)
