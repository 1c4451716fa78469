from itertools import pairwise

import pytest

from eco.training.config import TrainConfig
from eco.training.schedule import learning_rate_factor


def factors(**settings):
    config = TrainConfig(steps=100, warmup=10, final_lr=0.1, **settings)
    return [learning_rate_factor(config, step) for step in range(100)]


def test_warmup_is_linear_and_ends_at_one():
    for schedule in ("cosine", "wsd", "constant"):
        assert factors(schedule=schedule)[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])


def test_cosine_falls_monotonically_to_the_final_share():
    after = factors(schedule="cosine")[10:]
    assert all(a > b for a, b in pairwise(after))
    assert after[-1] == pytest.approx(0.1)
    assert after[44] == pytest.approx(0.55, abs=1e-9)  # halfway down at half of the decay


def test_wsd_is_flat_and_then_linear():
    curve = factors(schedule="wsd", decay_share=0.2)
    assert curve[10:80] == [1.0] * 70
    assert curve[80:] == pytest.approx([1 - 0.9 * (i + 1) / 20 for i in range(20)])


def test_constant_stays():
    assert factors(schedule="constant")[10:] == [1.0] * 90


def test_warmup_longer_than_the_run_does_not_fail():
    config = TrainConfig(steps=5, warmup=50)
    assert learning_rate_factor(config, 4) == pytest.approx(0.1)


def test_a_budget_of_tokens_ends_the_decay_with_it():
    tokens = TrainConfig(steps=100, warmup=10, tokens=49_500, schedule="cosine")
    steps = TrainConfig(steps=50, warmup=10, schedule="cosine")
    curve = [learning_rate_factor(tokens, step, tokens_per_step=1000) for step in range(50)]
    assert curve == [learning_rate_factor(steps, step) for step in range(50)]
