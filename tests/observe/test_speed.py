import time
from types import SimpleNamespace

import pytest
import torch

from eco.observe import phases as phases_module
from eco.observe import speed as speed_module
from eco.observe.phases import Phases
from eco.observe.speed import STAGES, Ema, Speed


class Clock:
    """A clock that only `spend` moves."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def spend(monkeypatch):
    clock = Clock()
    for module in (phases_module, speed_module):
        monkeypatch.setattr(
            module, "time", SimpleNamespace(perf_counter=clock.perf_counter, process_time=lambda: clock.now / 2)
        )

    def advance(seconds):
        clock.now += seconds

    return advance


def one_step(spend, phases, speed, tokens=100):
    with phases("data"):
        spend(0.002)
    speed.batch()
    with phases("train"):
        with phases("forward"):
            spend(0.004)
        with phases("backward"):
            spend(0.006)
        spend(0.002)
    speed.step(tokens)


def test_an_outer_phase_includes_the_inner_ones_and_collecting_starts_anew(spend):
    phases = Phases()
    with phases("outer"):
        spend(0.002)
        with phases("inner"):
            spend(0.003)
    seconds = phases.collect()
    assert seconds == pytest.approx({"inner": 0.003, "outer": 0.005})
    assert phases.collect() == {"outer": 0.0, "inner": 0.0}


def test_a_phase_counts_when_its_block_raises(spend):
    phases = Phases()
    with pytest.raises(KeyError), phases("forward"):
        spend(0.002)
        raise KeyError
    assert phases.collect()["forward"] == pytest.approx(0.002)


def test_a_phase_costs_microseconds():
    phases = Phases()
    began = time.perf_counter()
    for _ in range(10_000):
        with phases("forward"):
            pass
    assert (time.perf_counter() - began) / 10_000 < 20e-6


@pytest.mark.gpu
def test_on_a_gpu_a_phase_has_the_time_of_its_work_and_not_of_its_launch():
    device = torch.device("cuda")
    matrix = torch.randn(8192, 8192, device=device)
    torch.cuda.synchronize()
    phases = Phases(device)
    with phases("forward"):
        began = time.perf_counter()
        for _ in range(10):
            matrix @ matrix
        launched = time.perf_counter() - began
    assert phases.collect()["forward"] > 2 * launched


def test_a_row_holds_means_per_step_and_the_three_rates(spend):
    phases = Phases()
    speed = Speed(phases, started=1000.0)
    spend(0.5)
    speed.ready()
    for _ in range(3):
        one_step(spend, phases, speed)
        spend(0.001)
    with phases("eval"):
        spend(0.03)
    row = speed.row()
    expected = {
        "phase_data_s": 0.002, "phase_train_s": 0.012, "phase_forward_s": 0.004, "phase_backward_s": 0.006,
        "phase_optim_s": 0.006, "phase_train_other_s": 0.002, "phase_eval_s": 0.010, "phase_checkpoint_s": 0.0,
        "core_step_time_s": 0.014, "step_time_s": 0.015, "effective_step_time_s": 0.025, "step_cpu_s": 0.0125,
        "core_tokens_per_s": 100 / 0.014, "tokens_per_s": 100 / 0.015, "effective_tokens_per_s": 4000.0,
        "tokens_per_s_ema": 100 / 0.015, "tokens_seen_total": 300, "perf_bottleneck_share": 0.012 / 0.025,
        "startup_init_s": 0.5, "time_to_first_batch_s": 0.502, "time_to_first_step_s": 0.514,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    one_step(spend, phases, speed)
    second = speed.row()
    assert second["phase_eval_s"] == 0
    assert second["time_to_first_step_s"] == row["time_to_first_step_s"]
    assert second.keys() == row.keys()


@pytest.mark.parametrize(("slow", "stage"), [("data", "data"), ("forward", "train"), ("eval", "eval")])
def test_the_bottleneck_is_the_stage_that_took_longest(spend, slow, stage):
    phases = Phases()
    speed = Speed(phases, started=1000.0)
    speed.ready()
    one_step(spend, phases, speed)
    if slow == "forward":
        with phases("train"), phases("forward"):
            spend(0.03)
    else:
        with phases(slow):
            spend(0.03)
    row = speed.row()
    assert row["perf_bottleneck_stage"] == stage
    assert row["perf_bottleneck_stage_id"] == STAGES[stage]
    assert row["perf_bottleneck_share"] > 0.5


def test_what_happened_before_the_loop_is_not_in_the_first_interval(spend):
    phases = Phases()
    speed = Speed(phases, started=1000.0)
    with phases("eval"):
        spend(0.02)
    speed.ready()
    one_step(spend, phases, speed)
    row = speed.row()
    assert row["phase_eval_s"] == 0
    assert row["effective_step_time_s"] == pytest.approx(0.014)
    assert row["startup_init_s"] == pytest.approx(0.02)


def test_the_smoothed_rate_is_that_of_the_smoothed_time(spend):
    phases = Phases()
    speed = Speed(phases, started=1000.0, beta=0.5)
    speed.ready()
    for seconds in (0.1, 0.9):
        spend(seconds)
        speed.step(100)
        row = speed.row()
    assert row["tokens_per_s_ema"] == pytest.approx(100 / 0.5)


def test_the_moving_average_starts_at_the_first_value_and_continues_from_its_state():
    average = Ema(0.9)
    assert average.update(10.0) == 10.0
    assert average.update(0.0) == pytest.approx(9.0)
    assert Ema(0.9, average.value).update(0.0) == pytest.approx(8.1)
