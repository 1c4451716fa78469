"""One run of a proof in a process of its own: `python -m eco.jobs.arm TASK`, for its memory, its time, its imports.

TASK is a JSON file with the fields of `Task`; what the run measured goes to its `result` as an `Outcome`, whole or not
at all. Only the standard library is imported before modules are locked out.
"""

import json
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Task:
    """recipe: the file of a resolved recipe, whose output_dir is the run directory. locked: modules that the run must
    do without. result: the file for the outcome. key: what the outcome is good for; it is handed through."""

    recipe: str
    locked: tuple[str, ...]
    result: str
    key: str


@dataclass(frozen=True)
class Outcome:
    """What one run measured.

    losses: of each step. weights: digest of the trained weights. cpu_s, wall_s: of each step, evaluation included where
    there was one. last: the last row of metrics.jsonl. peak_bytes: of memory.
    """

    key: str
    losses: tuple[float, ...]
    weights: str
    cpu_s: tuple[float, ...]
    wall_s: tuple[float, ...]
    last: dict[str, Any]
    peak_bytes: int

    @classmethod
    def kept(cls, path: Path, key: str) -> "Outcome | None":
        """The outcome in a file, if there is one and it is good for `key`."""
        try:
            read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in read.items()}
            outcome = cls(**fields)
        except (OSError, ValueError, TypeError):
            return None
        return outcome if outcome.key == key else None


class Locked(MetaPathFinder):
    """Refuses to import some modules and what is in them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: object = None, target: ModuleType | None = None) -> None:
        if any(fullname == name or fullname.startswith(f"{name}.") for name in self._names):
            raise ImportError(f"{fullname} is imported although the only feature that needs it is off")


def main(task: Task) -> None:
    """Trains, measures, writes the outcome and leaves the run directory without its checkpoints."""
    sys.meta_path.insert(0, Locked(task.locked))
    _end_with_parent()
    _train(task)


def _end_with_parent() -> None:
    """The parent holds the other end of standard input; when it dies, however it dies, this process ends too."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)  # without sys.stdin's lock, which would be in the way when Python ends
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _train(task: Task) -> None:
    import shutil

    from eco import recipe as recipes
    from eco.files import write_json
    from eco.jobs.train import train_recipe
    from eco.observe.metrics import read_metrics
    from eco.observe.resources import peak_memory
    from eco.observe.run import RunPaths
    from eco.training.checkpoint import Checkpoints
    from eco.training.manifest import Manifest

    recipe = recipes.load(task.recipe)
    result = train_recipe(recipe, "arm", quiet=True)
    if result.reason != "steps":
        raise SystemExit(f"the run was stopped: {result.reason}")
    run = RunPaths(result.run)
    rows = read_metrics(run.metrics)[1:]
    files = Manifest.read(Checkpoints(run.checkpoints).entries()[-1].path).files
    outcome = Outcome(
        key=task.key,
        losses=tuple(row["loss"] for row in rows),
        weights=next(file.xxh3_128 for file in files if file.name == "model.safetensors"),
        cpu_s=tuple(row["step_cpu_s"] for row in rows),
        wall_s=tuple(row["effective_step_time_s"] for row in rows),
        last=rows[-1],
        peak_bytes=peak_memory(),
    )
    shutil.rmtree(run.checkpoints)
    write_json(Path(task.result), asdict(outcome))


if __name__ == "__main__":
    read = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    main(Task(**{**read, "locked": tuple(read["locked"])}))
