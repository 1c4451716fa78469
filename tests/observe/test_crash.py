import json
import logging

from eco.observe import crash
from eco.observe.crash import write_crash_report
from eco.observe.integrity import recipe_digest
from eco.observe.run import RunDirectory


def failing():
    raise RuntimeError("the weights went up in smoke")


def report(run, **changes):
    arguments = {
        "last_metrics": {"step": 12, "loss": float("nan")},
        "features": {"feature_ema_enabled": 1, "feature_ema_effective_calls": 12},
        "recipe": {"train": {"steps": 5}},
        "last_checkpoint": "step_00000010",
    }
    try:
        failing()
    except RuntimeError as error:
        return write_crash_report(run, 12, error, **(arguments | changes))


def test_the_report_holds_what_is_needed_to_understand_it(tmp_path):
    with RunDirectory(tmp_path) as run:
        path = report(run)
    assert path.parent == run.errors
    assert path.name.startswith("crash_step_00000012_")
    text = path.read_text()
    assert "NaN" not in text
    content = json.loads(text)
    assert content["exception_type"] == "RuntimeError"
    assert content["exception"] == "the weights went up in smoke"
    assert any("in failing" in line for line in content["traceback"])
    assert content["last_metrics"] == {"step": 12, "loss": None}
    assert content["features"]["feature_ema_effective_calls"] == 12
    assert content["recipe_digest"] == recipe_digest({"train": {"steps": 5}})
    assert content["last_checkpoint"] == "step_00000010"
    assert content["memory"]["process_rss"] > 0
    assert content["environment"]["packages"]["torch"]


def test_two_crashes_at_one_step_keep_both_reports(tmp_path):
    with RunDirectory(tmp_path) as run:
        assert report(run) != report(run)
    assert len(list(run.errors.iterdir())) == 2


def test_a_report_that_cannot_be_written_hides_nothing(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(crash, "write_json", full)
    with RunDirectory(tmp_path) as run, caplog.at_level(logging.ERROR):
        assert report(run) is None
    assert "No space left on device" in caplog.text
    assert "the weights went up in smoke" in caplog.text
