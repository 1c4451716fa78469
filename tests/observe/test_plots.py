import math

import pytest
from PIL import Image

from eco.observe.metrics import MetricsFile
from eco.observe.plots import learning_rate_figure, loss_figure, phases_figure, plot_run, speed_figure
from eco.observe.run import RunPaths


def rows_of(steps):
    rows = [{"step": 0, "event_startup": 1, "val_loss": 8.0}]
    for step in range(1, steps + 1):
        loss = 8 * math.exp(-step / 20)
        row = {
            "step": step, "loss": loss, "loss_ema": loss + 0.1, "lr": 1e-3 / step, "tokens_per_s": 1000.0,
            "tokens_per_s_ema": 1000.0, "effective_tokens_per_s": 500.0, "effective_step_time_s": 0.2,
            "phase_data_s": 0.02, "phase_forward_s": 0.04, "phase_backward_s": 0.08, "phase_opt_step_s": 0.02,
        }  # fmt: skip
        if step % 10 == 0:
            row["val_loss"] = loss + 0.2
        rows.append(row)
    return rows


def write(tmp_path, rows):
    metrics = MetricsFile(RunPaths(tmp_path).metrics)
    for row in rows:
        metrics.append(row)
    metrics.close()


def curves(figure):
    """Label -> (x, y) of every line drawn."""
    (axes,) = figure.axes
    return {line.get_label(): line.get_data() for line in axes.lines}


@pytest.mark.parametrize("steps", [1, 2, 300])
def test_a_run_gives_four_pictures_with_something_on_them(tmp_path, steps):
    write(tmp_path, rows_of(steps))
    paths = plot_run(tmp_path)
    assert [path.name for path in paths] == ["loss.png", "learning_rate.png", "speed.png", "phases.png"]
    for path in paths:
        image = Image.open(path)
        assert image.size == (1200, 675)
        assert len(image.convert("RGB").getcolors(1 << 24)) > 20


def test_the_loss_picture_shows_every_logged_value():
    rows = rows_of(100)
    figure = loss_figure(rows)
    drawn = curves(figure)
    assert drawn["training"][1] == pytest.approx([row["loss"] for row in rows[1:]])
    assert drawn["training, moving average"][1] == pytest.approx([row["loss_ema"] for row in rows[1:]])
    assert list(drawn["held-out"][0]) == [0, *range(10, 101, 10)]
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimizer step", "loss (nats per token)")


def test_a_value_that_was_not_finite_leaves_a_gap_and_not_a_zero():
    rows = rows_of(10)
    rows[4]["loss"] = None
    x, y = curves(loss_figure(rows))["training"]
    assert len(x) == 9
    assert 0 not in y


def test_the_learning_rate_starts_at_zero_and_holds_the_values():
    figure = learning_rate_figure(rows_of(20))
    assert curves(figure)["learning rate"][1] == pytest.approx([1e-3 / step for step in range(1, 21)])
    assert figure.axes[0].get_ylim()[0] == 0


def test_the_effective_speed_weighs_steps_by_their_time():
    rows = rows_of(2)
    rows[1].update(effective_tokens_per_s=1000.0, effective_step_time_s=1.0)
    rows[2].update(effective_tokens_per_s=250.0, effective_step_time_s=4.0)
    _, mean = curves(speed_figure(rows))["mean so far, evaluation and saving included"]
    assert mean == pytest.approx([1000.0, 400.0])


@pytest.mark.parametrize("steps", [1, 79, 81, 1000])
def test_phases_are_shares_that_add_up_to_a_hundred(steps):
    (axes,) = phases_figure(rows_of(steps)).axes
    tops = {patch.get_label(): patch.get_data() for patch in axes.patches}
    assert tops["waiting for data"].values == pytest.approx(10.0)
    assert tops["backward"].values - tops["backward"].baseline == pytest.approx(40.0)
    assert tops["other"].values - tops["other"].baseline == pytest.approx(20.0)
    assert tops["other"].values == pytest.approx(100.0)
    assert len(tops["other"].values) == min(steps, 80)
    assert axes.get_xlim() == (0, steps)


def test_a_family_without_some_metrics_gets_the_other_pictures(tmp_path):
    write(tmp_path, [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}])
    assert [path.name for path in plot_run(tmp_path)] == ["loss.png"]


@pytest.mark.parametrize("rows", [[], [{"step": 0, "event_startup": 1, "val_loss": 8.0}]])
def test_a_run_without_a_step_says_that_there_is_nothing_to_draw(tmp_path, rows):
    write(tmp_path, rows)
    with pytest.raises(ValueError, match=r"nothing to draw: .* holds no training step yet"):
        plot_run(tmp_path)


def test_no_metrics_at_all_says_so(tmp_path):
    with pytest.raises(ValueError, match="no metrics at"):
        plot_run(tmp_path)
