import importlib
import sys
from types import SimpleNamespace

import pytest

from eco.observe.trackers import numbers, open_trackers

ROW = {
    "step": 7, "loss": 2.5, "loss_ema": 2.6, "val_loss": 2.9, "lr": 1e-3, "phase_data_s": 0.5, "tokens_per_s": 100.0,
    "perf_bottleneck_stage": "train", "perf_bottleneck_stage_id": 2, "feature_ema_enabled": 1, "grad_norm": None,
}  # fmt: skip
GROUPED = {
    "loss/train": 2.5, "loss/train_ema": 2.6, "val/loss": 2.9, "lr": 1e-3, "perf/phase_data_s": 0.5,
    "perf/tokens_per_s": 100.0, "perf/bottleneck_stage_id": 2.0, "feature/ema_enabled": 1.0,
}  # fmt: skip


class FakeRun:
    def __init__(self, **arguments):
        self.arguments = arguments
        self.logged = []
        self.finished = False

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def fake(monkeypatch):
    """Puts a module in the place of a tracker's package; returns the runs that were opened."""
    runs = []

    def install(name):
        module = SimpleNamespace(init=lambda **arguments: runs.append(FakeRun(**arguments)) or runs[-1])
        monkeypatch.setitem(sys.modules, name, module)
        return runs

    return install


def test_only_numbers_are_sent_grouped_by_kind():
    assert numbers(ROW) == GROUPED


def test_tensorboard_event_files_hold_the_rows(tmp_path):
    pytest.importorskip("tensorboard")
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    (tracker,) = open_trackers(["tensorboard"], tmp_path, {"train": {"steps": 9}})
    tracker.log(ROW)
    tracker.log(ROW | {"step": 8, "loss": 1.5})
    tracker.close()
    events = accumulator.EventAccumulator(str(tmp_path / "logs" / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(GROUPED)
    assert [(event.step, event.value) for event in events.Scalars("loss/train")] == [(7, 2.5), (8, 1.5)]
    assert events.Tags()["tensors"] == ["recipe/text_summary"]


def test_trackio_gets_project_run_and_rows(tmp_path, fake):
    runs = fake("trackio")
    (tracker,) = open_trackers(["trackio"], tmp_path / "demo", {"seed": 1})
    tracker.log(ROW)
    tracker.close()
    assert runs[0].arguments.pop("name").startswith("demo-")
    assert runs[0].arguments == {"project": "eco", "config": {"seed": 1}, "resume": "allow"}
    assert runs[0].logged == [(7, GROUPED)]
    assert runs[0].finished


@pytest.mark.parametrize(("variable", "mode"), [(None, "offline"), ("WANDB_API_KEY", None), ("WANDB_MODE", None)])
def test_wandb_is_offline_unless_the_user_gave_a_key_or_a_mode(tmp_path, fake, monkeypatch, variable, mode):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "value")
    runs = fake("wandb")
    (tracker,) = open_trackers(["wandb"], tmp_path / "demo", {"seed": 1})
    tracker.log(ROW)
    tracker.close()
    assert runs[0].arguments["mode"] == mode
    assert runs[0].arguments["dir"] == str(tmp_path / "demo" / "logs")
    assert runs[0].logged == [(7, GROUPED)]
    assert runs[0].finished


@pytest.mark.parametrize(("name", "key"), [("trackio", "name"), ("wandb", "id")])
def test_a_resumed_run_goes_on_in_its_own_record_and_in_no_other(tmp_path, fake, name, key):
    runs = fake(name)
    for folder in (tmp_path / "demo", tmp_path / "demo", tmp_path / "elsewhere" / "demo"):
        open_trackers([name], folder, {})
    first, again, other = (run.arguments[key] for run in runs)
    assert first == again != other


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_tracker_that_is_not_installed_gives_the_command(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=rf"'{name}' needs a package .* pip install 'eco-lm\[track\]'"):
        open_trackers([name], tmp_path, {})


def test_an_unknown_tracker_is_named(tmp_path):
    with pytest.raises(ValueError, match="no tracker 'mlflow'; there is: tensorboard, trackio, wandb"):
        open_trackers(["mlflow"], tmp_path, {})
    assert open_trackers([], tmp_path, {}) == []
