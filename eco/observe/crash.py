"""Crash reports: what is needed to understand a failed run without its process."""

import logging
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

from eco.files import write_json
from eco.observe.environment import environment
from eco.observe.integrity import recipe_digest
from eco.observe.metrics import plain
from eco.observe.run import RunPaths

_log = logging.getLogger(__name__)


def write_crash_report(
    run: RunPaths,
    step: int,
    error: BaseException,
    *,
    last_metrics: Mapping[str, Any],
    features: Mapping[str, Any],
    recipe: Mapping[str, Any],
    last_checkpoint: str | None = None,
) -> Path | None:
    """Writes `errors/crash_step_{step:08d}_{UTC time}.json` and returns its path.

    last_metrics: the newest row of metrics; features: the ledger's row; recipe: the resolved recipe as plain data, of
    which only the digest is kept (`recipe.yaml` has the rest).

    A report must never hide the error that it reports: where it cannot be made or written (the disk or the device may
    be what failed), the error goes to the log and the result is None.
    """
    now = datetime.now(UTC)
    trace = traceback.format_exception(error)
    path = run.errors / f"crash_step_{step:08d}_{now:%Y%m%dT%H%M%S.%fZ}.json"
    try:
        report = {
            "time": now.isoformat(),
            "step": step,
            "exception_type": type(error).__name__,
            "exception": str(error),
            "traceback": trace,
            "last_metrics": {key: plain(value) for key, value in last_metrics.items()},
            "features": {key: plain(value) for key, value in features.items()},
            "recipe_digest": recipe_digest(recipe),
            "last_checkpoint": last_checkpoint,
            "memory": _memory(),
            "environment": environment(),
        }
        write_json(path, report)
    except Exception as failure:
        _log.error("no crash report at %s (%s); the error was:\n%s", path, failure, "".join(trace))
        return None
    return path


def _memory() -> dict[str, Any]:
    """Memory of machine, process and GPU in bytes."""
    machine = psutil.virtual_memory()
    memory: dict[str, Any] = {
        "total": machine.total,
        "available": machine.available,
        "process_rss": psutil.Process().memory_info().rss,
    }
    if torch.cuda.is_available():
        memory["gpu_allocated"] = torch.cuda.memory_allocated()
        memory["gpu_peak"] = torch.cuda.max_memory_allocated()
        memory["gpu_summary"] = torch.cuda.memory_summary()
    return memory
