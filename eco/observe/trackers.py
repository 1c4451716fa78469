"""Trackers: the rows of metrics.jsonl, sent also to TensorBoard, Trackio or Weights & Biases."""

import hashlib
import importlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

_PROJECT = "eco"
_OWN_NAMES = {"loss": "loss/train", "loss_ema": "loss/train_ema"}
_PERFORMANCE = ("phase_", "perf_", "gpu_", "cpu_", "ram_", "process_", "time_to_", "startup_")


class Tracker(Protocol):
    """Receives rows of metrics until it is closed."""

    def log(self, row: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


def open_trackers(names: Iterable[str], run_dir: Path, recipe: Mapping[str, Any]) -> list[Tracker]:
    """Opens each named tracker for the run; `recipe` (plain data) is shown as the run's configuration.

    Raises:
        ValueError: a tracker that does not exist, or whose package is not installed.
    """
    for name in names:
        if name not in _TRACKERS:
            raise ValueError(f"no tracker {name!r}; there is: {', '.join(_TRACKERS)}")
    return [_TRACKERS[name](run_dir, recipe) for name in names]


class TensorBoard:
    """Event files in `logs/tensorboard`; view with `tensorboard --logdir RUN/logs/tensorboard`."""

    def __init__(self, run_dir: Path, recipe: Mapping[str, Any]) -> None:
        _module("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run_dir / "logs" / "tensorboard"))
        self._writer.add_text("recipe", "\n".join(f"    {key}: {value}" for key, value in recipe.items()))

    def log(self, row: Mapping[str, Any]) -> None:
        for name, value in numbers(row).items():
            self._writer.add_scalar(name, value, global_step=row["step"])

    def close(self) -> None:
        self._writer.close()


class Trackio:
    """A local Trackio project; view with `trackio show --project eco`."""

    def __init__(self, run_dir: Path, recipe: Mapping[str, Any]) -> None:
        trackio = _module("trackio")
        self._run = trackio.init(project=_PROJECT, name=_identity(run_dir), config=dict(recipe), resume="allow")

    def log(self, row: Mapping[str, Any]) -> None:
        self._run.log(numbers(row), step=row["step"])

    def close(self) -> None:
        self._run.finish()


class WeightsAndBiases:
    """Weights & Biases. Offline, in `logs/wandb`, unless WANDB_API_KEY or WANDB_MODE is set; `wandb sync` uploads."""

    def __init__(self, run_dir: Path, recipe: Mapping[str, Any]) -> None:
        wandb = _module("wandb")
        logs = run_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        chosen = os.environ.keys() & {"WANDB_API_KEY", "WANDB_MODE"}
        self._run = wandb.init(
            project=_PROJECT,
            name=run_dir.name,
            id=_identity(run_dir),
            resume="allow",
            dir=str(logs),
            config=dict(recipe),
            mode=None if chosen else "offline",
        )

    def log(self, row: Mapping[str, Any]) -> None:
        self._run.log(numbers(row), step=row["step"])

    def close(self) -> None:
        self._run.finish()


_TRACKERS: dict[str, type[TensorBoard] | type[Trackio] | type[WeightsAndBiases]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WeightsAndBiases,
}


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numeric metrics of a row but its step, under names that dashboards group by what stands before the slash."""
    return {
        _grouped(name): float(value)
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float) and value is not None
    }


def _grouped(name: str) -> str:
    if name in _OWN_NAMES:
        return _OWN_NAMES[name]
    if name.startswith(_PERFORMANCE) or name.endswith(("_per_s", "_per_s_ema", "step_time_s")):
        return f"perf/{name.removeprefix('perf_')}"
    group = name.split("_", 1)[0]
    return f"{group}/{name.removeprefix(group + '_')}" if group in ("feature", "val") else name


def _identity(run_dir: Path) -> str:
    """The same for all sessions of one run directory, and another for a directory of the same name elsewhere."""
    path = run_dir.absolute()
    return f"{path.name}-{hashlib.sha256(path.as_posix().encode()).hexdigest()[:8]}"


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"the tracker {name!r} needs a package that is not installed; pip install 'eco-lm[track]'"
        ) from error
