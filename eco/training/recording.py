"""Writes down what happens: a row of metrics for every step, status, progress display and trackers at intervals."""

from collections.abc import Sequence
from typing import Any

from eco.observe.metrics import MetricsFile
from eco.observe.progress import Progress
from eco.observe.resources import Resources
from eco.observe.run import RunDirectory
from eco.observe.speed import Ema, Speed
from eco.observe.status import StatusFile
from eco.observe.trackers import Tracker
from eco.training.callbacks import Callback, Evaluation, Row
from eco.training.config import LogConfig
from eco.training.trainer import Trainer


class Recording(Callback):
    """The one writer of metrics.jsonl. Must stand behind the callbacks that add to the row, before the one that saves.

    session: what is true for the whole session (`checkpoint_resume_step`, ...); it is part of every row.
    """

    name = "recording"

    def __init__(
        self,
        run: RunDirectory,
        config: LogConfig,
        speed: Speed,
        progress: Progress,
        trackers: Sequence[Tracker],
        session: Row,
    ) -> None:
        self.last_row: Row = {}
        self.last_checkpoint: str | None = None
        self._run = run
        self._config = config
        self._speed = speed
        self._progress = progress
        self._trackers = trackers
        self._session = session
        self._status = StatusFile(run.status)
        self._loss_ema = Ema(config.ema)
        self._metrics: MetricsFile | None = None
        self._resources: Resources | None = None

    def start(self, trainer: Trainer) -> None:
        self._resources = Resources(trainer.precision.device)
        self._open_metrics(trainer)
        self._speed.ready()
        self._speed.tokens_seen = trainer.tokens
        self._status.update(state="running", step=trainer.step, last_checkpoint=self.last_checkpoint)
        if trainer.step == 0:
            first = next((c.first for c in trainer.callbacks if isinstance(c, Evaluation)), {})
            self._write(
                trainer, {"step": 0, "event_startup": 1, "tokens_seen_total": 0, **self._speed.milestones, **first}
            )

    def step(self, trainer: Trainer, row: Row) -> None:
        with trainer.phases("metrics"):
            assert self._resources is not None, "start opens it"
            self._speed.step(row["tokens_seen_total"] - self._speed.tokens_seen)
            if not row["skipped"]:
                row["loss_ema"] = self._loss_ema.update(row["loss"])
            row.update(self._speed.row())
            row["model_flops_per_s"] = trainer.model.flops_per_token() * row["core_tokens_per_s"]
            if trainer.step % self._config.every == 0:
                row.update(self._resources.row())
            self._write(trainer, row)
            self._progress.update(self.last_row, trainer.seconds_left)
            if trainer.step % self._config.every == 0:
                self._status.update(step=trainer.step, **self._figures())

    def saved(self, name: str) -> None:
        """A checkpoint is about to stand for the rows so far: they go to the disk, its name into status.json."""
        if self._metrics:
            self._metrics.sync()
        self.last_checkpoint = name
        self._status.update(last_checkpoint=name)

    def finish(self, state: str, step: int) -> None:
        """The last word in status.json; closes files and trackers."""
        self._status.update(state=state, step=step, **self._figures())
        if self._metrics:
            self._metrics.close()
        for tracker in self._trackers:
            tracker.close()

    def rolled_back(self, trainer: Trainer) -> None:
        assert self._metrics is not None, "start opens it"
        self._metrics.close()
        self._open_metrics(trainer)
        self._speed.tokens_seen = trainer.tokens

    def state_dict(self) -> dict[str, Any]:
        return {"loss_ema": self._loss_ema.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loss_ema = Ema(self._config.ema, state["loss_ema"])

    def _figures(self) -> Row:
        """What status.json takes from the last row."""
        row = self.last_row
        names = {"loss_ema": "loss_ema", "tokens_per_s": "tokens_per_s", "bottleneck_stage": "perf_bottleneck_stage"}
        return {field: row[name] for field, name in names.items() if name in row}

    def _open_metrics(self, trainer: Trainer) -> None:
        self._metrics = MetricsFile(self._run.metrics, resume_step=trainer.step or None)

    def _write(self, trainer: Trainer, row: Row) -> None:
        assert self._metrics is not None, "start opens it"
        self.last_row = self._metrics.append({**row, **self._session, **trainer.ledger.row()})
        if row["step"] % self._config.every == 0:
            for tracker in self._trackers:
                tracker.log(self.last_row)
