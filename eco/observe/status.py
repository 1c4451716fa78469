"""`status.json`: what a run is doing now, for people and scripts that look in from outside."""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil

from eco.files import write_json
from eco.observe.metrics import plain

State = Literal["running", "finished", "stopped", "crashed"]

_EVERY_S = 5.0
"""Seconds between writes that no milestone asks for; each waits for the disk."""


@dataclass
class Status:
    """The content of `status.json`, besides who wrote it and when."""

    state: State = "running"
    step: int = 0
    loss_ema: float | None = None
    tokens_per_s: float | None = None
    bottleneck_stage: str | None = None
    last_checkpoint: str | None = None


class StatusFile:
    """Keeps `status.json` up to date: at once when the state or the checkpoint changes, else every five seconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._status = Status()
        self._written: tuple[State, str | None] | None = None
        self._written_at = 0.0

    def update(self, **changes: Any) -> None:
        """Changes fields of `Status` by name; keys of a metrics row that it does not have are errors of ours."""
        for name, value in changes.items():
            assert hasattr(self._status, name), f"Status has no {name}"
            setattr(self._status, name, plain(value))
        milestone = (self._status.state, self._status.last_checkpoint)
        if milestone != self._written or time.monotonic() - self._written_at > _EVERY_S:
            who = {"pid": os.getpid(), "host": socket.gethostname(), "updated": datetime.now(UTC).isoformat()}
            write_json(self._path, asdict(self._status) | who)
            self._written, self._written_at = milestone, time.monotonic()


def read_status(path: Path) -> dict[str, Any]:
    """The content of `status.json`; a run that says it is running although its process is gone has crashed.

    Raises:
        ValueError: there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"no status at {path}: the run has not started, or this is no run directory")
    status: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    here = status["host"] == socket.gethostname()
    if status["state"] == "running" and here and not psutil.pid_exists(status["pid"]):
        status["state"] = "crashed"
    return status
