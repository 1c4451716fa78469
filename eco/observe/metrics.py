"""`metrics.jsonl`: one flat, strict JSON object per logged step, the only source of plots and trackers."""

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eco.files import replacing

Value = float | int | str | bool | None
Row = dict[str, Any]
"""One line of the file: name -> `Value`. Every row has `step`, the number of optimizer steps done."""

_SYNC_EVERY_S = 10.0
"""At most this many seconds of rows are lost in a power cut; a killed process loses none."""

_log = logging.getLogger(__name__)


class MetricsFile:
    """Appends rows. A kill may tear the last line; opening the file again repairs it.

    Resuming drops the rows after the checkpoint, so that the file of an interrupted run ends up equal to that of an
    uninterrupted one, timings apart.
    """

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        """Opens `path` for the steps after `resume_step`; None is a fresh run, whose file starts empty."""
        if resume_step is not None and path.exists():
            _keep_until(path, resume_step)
        mode = "w" if resume_step is None else "a"
        self._stream = open(path, mode, encoding="utf-8")  # noqa: SIM115 (open for the whole run)
        self._synced = time.monotonic()

    def append(self, row: Mapping[str, Any]) -> Row:
        """Writes one row and hands it to the system; returns it as written.

        NaN and infinity become null, scalar tensors and numpy numbers become Python numbers.
        """
        assert isinstance(row.get("step"), int), "a row of metrics needs its step"
        clean = {"step": row["step"]} | {key: plain(value) for key, value in row.items()}
        self._stream.write(json.dumps(clean, allow_nan=False) + "\n")
        self._stream.flush()
        if time.monotonic() - self._synced > _SYNC_EVERY_S:
            self.sync()
        return clean

    def sync(self) -> None:
        """Puts all rows on the disk; to be called with each checkpoint, whose step the rows must reach."""
        os.fsync(self._stream.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        if not self._stream.closed:
            self.sync()
            self._stream.close()


def plain(value: Any) -> Value:
    """A number, text, bool or None that strict JSON can hold; scalar tensors are read, NaN and infinity are None."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    assert value is None or isinstance(value, bool | int | float | str), f"not a flat metric: {value!r}"
    return value


def read_metrics(path: Path) -> list[Row]:
    """All rows in order of writing. A torn last line, of a run that is writing or was killed, is left out.

    Raises:
        ValueError: there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"no metrics at {path}: the run has not logged a step yet, or this is no run directory")
    return [row for _, row in _rows(path)]


def _rows(path: Path) -> Iterator[tuple[bytes, Row]]:
    """The readable lines of a metrics file, as bytes without the line end and parsed."""
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                yield line.rstrip(b"\n"), row
            elif line.endswith(b"\n"):
                _log.warning("%s: line %d is damaged and was left out", path, number)


def _keep_until(path: Path, step: int) -> None:
    """Rewrites the file with only its whole rows up to `step`, each ended by a newline."""
    with replacing(path, "wb") as stream:
        stream.writelines(line + b"\n" for line, row in _rows(path) if row["step"] <= step)
