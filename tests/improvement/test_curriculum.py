"""The choice of tasks: in the band where it can be, never without untried ones, and the same after a resume."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from eco.improvement.curriculum import Curriculum, CurriculumConfig

CONFIG = CurriculumConfig()
RATES = np.random.default_rng(0).beta(0.1, 0.5, 600)
"""How often a simulated model solves each task: mostly never, some always, 108 of 600 in the band."""


def played(curriculum, rounds, count=60, samples=8, rates=RATES, seed=1):
    """The picks of each of these rounds, while the model answers with its true rates."""
    picks = []
    for round in rounds:
        picks.append(curriculum.pick(round, count))
        for index in picks[-1]:
            passed = np.random.default_rng([seed, round, index]).binomial(samples, rates[index])
            curriculum.record(index, int(passed), samples)
    return picks


def in_band(picks, rates=RATES):
    return np.mean([(rates[pick] > CONFIG.low) & (rates[pick] < CONFIG.high) for pick in picks])


def test_tasks_that_are_solved_now_and_then_are_found():
    assert in_band([range(600)]) == 0.18
    for seed in range(3):
        picks = played(Curriculum(600, CONFIG, seed), range(1, 31), seed=seed)
        assert in_band(picks[4:12]) > 3 * 0.18  # a quarter of these are still untried ones
        assert in_band(picks[24:]) > 4 * 0.18


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_untried_tasks_never_starve_whatever_is_known(rate):
    curriculum, tried = Curriculum(200, CONFIG, 0), set()
    for picks in played(curriculum, range(40), count=20, rates=np.full(200, rate)):
        untried = set(range(200)) - tried
        assert len(set(picks) & untried) >= min(5, len(untried))
        tried |= set(picks)
    assert tried == set(range(200))


def test_picks_are_distinct_and_as_many_as_there_are():
    curriculum = Curriculum(10, CONFIG, 0)
    for count in (1, 7, 10, 99):
        picks = curriculum.pick(1, count)
        assert len(picks) == len(set(picks)) == min(count, 10) and set(picks) <= set(range(10))


def test_picks_follow_from_seed_round_and_records():
    def third(seed, rounds=(1, 2), samples=8):
        curriculum = Curriculum(600, CONFIG, seed)
        played(curriculum, rounds, samples=samples)
        return curriculum.pick(3, 60)

    assert third(0) == third(0)
    assert len({tuple(picks) for picks in (third(0), third(1), third(0, (1,)), third(0, (1, 1)))}) == 4
    curriculum = Curriculum(600, CONFIG, 0)
    assert curriculum.pick(1, 60) == curriculum.pick(1, 60) != curriculum.pick(2, 60)


def test_a_resumed_curriculum_goes_on_as_if_it_had_never_stopped():
    straight, stopped = Curriculum(600, CONFIG, 0), Curriculum(600, CONFIG, 0)
    expected = played(straight, range(1, 9))
    played(stopped, range(1, 5))
    state = json.loads(json.dumps(stopped.state_dict(), allow_nan=False))
    other = Curriculum(600, CONFIG, 0)
    played(other, range(1, 3), seed=7)  # what it knew before is forgotten
    other.load_state_dict(state)
    assert other.rates() == stopped.rates()
    assert played(other, range(5, 9)) == expected[4:]
    assert other.state_dict() == straight.state_dict()


def test_the_state_holds_tried_tasks_only_and_is_refused_for_other_tasks():
    curriculum = Curriculum(3000, CONFIG, 0)
    curriculum.pick(1, 5)
    curriculum.record(17, 3, 8)
    assert curriculum.state_dict()["tried"] == [[17, 3.0, 8.0, 1]]
    with pytest.raises(ValueError, match="knows 3000 tasks, but there are 2999"):
        Curriculum(2999, CONFIG, 0).load_state_dict(curriculum.state_dict())


def test_rates_shrink_towards_the_mean_of_all_and_fade_back_to_it():
    curriculum = Curriculum(4, CurriculumConfig(prior=2.0, half_life=1.0), 0)
    curriculum.pick(1, 4)
    curriculum.record(0, 8, 8)
    curriculum.record(1, 0, 8)
    curriculum.record(2, 4, 4)
    curriculum.record(2, 0, 4)  # counts on in the same round
    mean = 12.5 / 25
    assert curriculum.rates() == pytest.approx([(8 + 2 * mean) / 10, 2 * mean / 10, (4 + 2 * mean) / 10, mean])
    curriculum.pick(3, 4)  # two rounds later an attempt counts a quarter
    mean = (12 / 4 + 0.5) / (24 / 4 + 1)
    assert curriculum.rates()[:2] == pytest.approx([(2 + 2 * mean) / 4, 2 * mean / 4])
    curriculum.record(0, 0, 8)
    mean = (0.25 * 12 + 0.5) / (0.25 * 24 + 8 + 1)
    assert curriculum.rates()[0] == pytest.approx((2 + 2 * mean) / (2 + 8 + 2))


def test_what_the_model_has_outgrown_gives_way_to_what_was_too_hard_before():
    before, after = np.repeat([0.0, 0.5], 50), np.repeat([0.5, 1.0], 50)

    def found(half_life):
        curriculum = Curriculum(100, CurriculumConfig(half_life=half_life), 0)
        played(curriculum, range(10), count=40, rates=before)
        return in_band(played(curriculum, range(10, 20), count=40, rates=after), after)

    assert found(4.0) > found(1e9) + 0.2


@pytest.mark.parametrize("wrong", [{"low": 0.8, "high": 0.2}, {"untried": 1.5}, {"prior": 0.0}, {"half_life": 0.0}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(ValidationError):
        CurriculumConfig(**wrong)
