"""The run directory: its layout, the same for every family of models, and the lock that keeps it to one writer."""

import json
import logging
import os
import socket
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from eco.files import write_json


class RunPaths:
    """Where everything of a run lies. Only names: nothing is read, created or locked."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.recipe = self.path / "recipe.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.status = self.path / "status.json"
        self.environment = self.path / "environment.json"
        self.integrity_manifest = self.path / "integrity_manifest.json"
        self.tokenizer = self.path / "tokenizer.json"
        self.identifiers = self.path / "identifiers.json"
        self.checkpoints = self.path / "checkpoints"
        self.errors = self.path / "errors"
        self.samples = self.path / "samples"
        self.plots = self.path / "plots"
        self.logs = self.path / "logs"

    def folders(self) -> list[Path]:
        return [self.path, self.checkpoints, self.errors, self.samples, self.plots, self.logs]


def existing_run(path: str | Path) -> RunPaths:
    """The layout of a run that is there, for commands that only read it (no lock is taken).

    Raises:
        ValueError: `path` is no run directory.
    """
    paths = RunPaths(path)
    if not paths.recipe.is_file():
        what = (
            "holds no recipe.yaml" if paths.path.is_dir() else "is a file" if paths.path.exists() else "does not exist"
        )
        raise ValueError(f"{paths.path} is not a run directory: it {what}; `eco train RECIPE` makes one")
    return paths


class RunDirectory(RunPaths):
    """A run directory opened for writing: created where missing, locked against other processes, its log attached.

    The lock belongs to the open file, so the system frees it when the process ends, however it ends. What the `eco`
    loggers say from INFO up goes to `logs/eco.log` until `close`.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens `path`.

        Raises:
            ValueError: the path cannot be written, or another process is using the directory.
        """
        super().__init__(path)
        try:
            for folder in self.folders():
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = _acquire(self.path)
            self._log = _attach_log(self.logs / "eco.log")
        except OSError as error:
            raise ValueError(
                f"cannot write to the run directory {self.path}: {error.strerror or error}; "
                "choose another with --output-dir, or change its permissions"
            ) from error

    def close(self) -> None:
        """Detaches the log and frees the lock. A second call does nothing."""
        logging.getLogger("eco").removeHandler(self._log)
        self._log.close()
        self._lock.release()

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _acquire(path: Path) -> FileLock:
    lock = FileLock(path / ".lock", timeout=0)
    owner = path / ".owner.json"
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"the run directory {path} is in use by {_describe(owner)}; stop that run first, or choose another "
            "directory with --output-dir"
        ) from None
    write_json(owner, {"pid": os.getpid(), "host": socket.gethostname()})
    return lock


def _describe(owner: Path) -> str:
    """Who holds the lock, in words; a holder that has only just taken it may not have written its name yet."""
    try:
        holder = json.loads(owner.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "another process"
    return f"process {holder['pid']} on {holder['host']}"


def _attach_log(path: Path) -> logging.Handler:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk loses lines, not the run
    logger = logging.getLogger("eco")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    return handler
