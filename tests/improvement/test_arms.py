"""Arms beside each other: differences are paired by task and seed, and only between arms of equal length."""

import json
import re

import numpy as np
import pytest

from eco.evaluation.pass_at_k import Checked
from eco.improvement.arms import RESULT, Arm, gain, gain_over, read_arms
from eco.improvement.measure import Measurement, Suite


def measured(rates, samples=4):
    suite = Suite(samples, {name: Checked(samples, passed) for name, passed in rates.items()})
    return Measurement({"sums": suite, "other": Suite(1, {"x": Checked(1, 1)})}, 0.5, 1.0, 2.0)


def arm(tmp_path, before, after, control="none", seed=0, rounds=2, objective="expert"):
    return Arm(tmp_path, control, objective, seed, rounds, 1.0, measured(before), measured(after))


def drawn(dice, tasks=30):
    return {f"sums/{dice.integers(1000)}-{n}": int(dice.integers(5)) for n in range(tasks)}


def again(dice, tasks):
    return {name: int(dice.integers(5)) for name in reversed(tasks)}


def test_a_gain_is_the_mean_over_the_tasks_of_all_seeds(tmp_path):
    dice = np.random.default_rng(0)
    befores = [drawn(dice) for _ in range(3)]
    afters = [again(dice, before) for before in befores]
    found = gain([arm(tmp_path, *pair, seed=seed) for seed, pair in enumerate(zip(befores, afters, strict=True))])
    differences = [(after[n] - before[n]) / 4 for before, after in zip(befores, afters, strict=True) for n in before]
    assert found.value == pytest.approx(np.mean(differences))
    error = np.std(differences) / np.sqrt(len(differences))
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.02)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.02)


def test_hard_tasks_cancel_out(tmp_path):
    """Rates differ widely between tasks, and each rises by a quarter: the interval has no width."""
    before = {f"sums/{n}": n % 4 for n in range(40)}
    found = gain([arm(tmp_path, before, {name: passed + 1 for name, passed in before.items()})])
    assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)
    assert str(found) == "+25.0 (+25.0 to +25.0)"


def test_an_arm_is_held_against_the_control_of_its_seed_whatever_their_order(tmp_path):
    dice = np.random.default_rng(1)
    starts = [drawn(dice) for _ in range(3)]
    method = [arm(tmp_path, start, again(dice, start), seed=seed) for seed, start in enumerate(starts)]
    control = [arm(tmp_path, start, again(dice, start), "frozen", seed) for seed, start in enumerate(starts)]
    expected = [
        one.after.suites["sums"].rates[name] - other.after.suites["sums"].rates[name]
        for one, other in zip(method, control, strict=True)
        for name in starts[one.seed]
    ]
    for order in (control, control[::-1]):
        assert gain_over(method, order).value == pytest.approx(np.mean(expected))
    alone = gain_over(method, control[1:2])
    assert alone.value == pytest.approx(np.mean(expected[30:60])), "seeds without a control are left out"


def test_what_is_not_equal_is_not_compared(tmp_path):
    start = {"sums/1": 1, "sums/2": 3}
    method = [arm(tmp_path, start, start)]
    assert gain_over(method, [arm(tmp_path, start, start, "frozen")]) is not None
    assert gain_over(method, [arm(tmp_path, start, start, "frozen", seed=1)]) is None
    assert gain_over(method, [arm(tmp_path, start, start, "frozen", rounds=1)]) is None
    assert gain_over(method, []) is None and gain_over([], method) is None
    others = {"sums/8": 1, "sums/9": 3}
    assert gain_over(method, [arm(tmp_path, others, others, "frozen")]) is None, "no task in common"


def write(run, folder, control, seed, **changed):
    path = run / folder
    path.mkdir()
    figures = {"before": measured({"sums/1": 1}).as_json(), "after": measured({"sums/1": 2}).as_json()}
    facts = {"control": control, "objective": "expert", "seed": seed, "rounds": 2, "seconds": 1.5}
    (path / RESULT).write_text(json.dumps(figures | facts | changed))
    return path


def test_the_method_comes_first_and_then_its_controls_by_seed(tmp_path):
    write(tmp_path, "improve-seed-1", "none", 1)
    write(tmp_path, "improve-frozen-seed-1", "frozen", 1)
    write(tmp_path, "improve-frozen", "frozen", 0)
    write(tmp_path, "improve", "none", 0)
    (tmp_path / "improve-random-reward").mkdir()  # not finished
    arms = read_arms(tmp_path)
    assert [(one.control, one.seed) for one in arms] == [("none", 0), ("none", 1), ("frozen", 0), ("frozen", 1)]
    assert (arms[0].learnt, arms[0].pass_at_1("before"), arms[0].pass_at_1("after")) == ("sums", 0.25, 0.5)


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"before": 1}'])
def test_a_damaged_result_is_named(tmp_path, damage):
    (write(tmp_path, "improve", "none", 0) / RESULT).write_text(damage)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'improve' / RESULT} is damaged")):
        read_arms(tmp_path)


def test_arms_of_different_objectives_are_not_held_against_each_other(tmp_path):
    dice = np.random.default_rng(5)
    start = drawn(dice)
    method = arm(tmp_path, start, again(dice, start), objective="grpo")
    controls = [arm(tmp_path, start, again(dice, start), "frozen", objective=name) for name in ("expert", "grpo")]
    assert gain_over([method], controls[:1]) is None
    assert gain_over([method], controls) == gain_over([method], controls[1:])
