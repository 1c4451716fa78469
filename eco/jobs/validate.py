"""Validates a packed language model: a fresh process opens the archive, and nothing else, and checks what is in it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import eco
from eco.files import sha256, write_json
from eco.machine import cache_folder
from eco.ship.archive import SUFFIX
from eco.ship.manifest import is_bundle

REPORT = "validation.json"

_START = "import sys; sys.path.insert(0, sys.argv[1]); from eco.jobs.examine import main; main(*sys.argv[2:])"
"""Under -I: no PYTHONPATH, no user's packages, no working directory; the package that runs here is told by path."""


def validate(packed: str | Path) -> dict[str, Any]:
    """The report on an archive, an unpacked bundle, or a run, of which the best checkpoint is packed for it.

    It has `passed`, `checks` (each with `name`, `passed`, `detail` for people and `figures`), the model's `name`, the
    archive's `sha256`, and what it was `made_with` and `validated_with`. It is also written to a file, `report`:
    RUN/validation.json, or NAME_validation.json beside NAME_model.tar.gz or beside the bundle NAME.

    Raises:
        ValueError: there is nothing at that path, or a run cannot be packed; see `eco.jobs.pack.bundle`. What is wrong
            with an archive or a bundle is in the report.
    """
    path = Path(packed).absolute()
    with TemporaryDirectory(prefix="eco-validate-") as work, _archive_of(path, Path(work)) as archive:
        found = _examined(archive, Path(work))
        digest = {} if archive.is_dir() else {"sha256": sha256(archive)}
    passed = all(check["passed"] for check in found["checks"])
    report = {"target": str(path), "passed": passed, **digest, **found}
    return report | {"report": _written(report, report_path(path))}


def _written(report: dict[str, Any], path: Path) -> str | None:
    """Where the report went; None where that cannot be written, as beside an archive on a read-only disk."""
    try:
        write_json(path, report)
    except OSError:
        return None
    return str(path)


def report_path(packed: Path) -> Path:
    """Where the report on a run, an archive or a bundle goes: never into a bundle, which stays as packed."""
    if _is_run(packed):
        return packed / REPORT
    return packed.with_name(f"{packed.name.removesuffix(SUFFIX)}_{REPORT}")


def _is_run(path: Path) -> bool:
    return path.is_dir() and not is_bundle(path)


@contextmanager
def _archive_of(path: Path, work: Path) -> Iterator[Path]:
    """What is to be validated: the path itself, or an archive of the run there."""
    if not path.exists():
        raise ValueError(f"{path} does not exist; name a run directory, an archive *{SUFFIX} or an unpacked one")
    if not _is_run(path):
        yield path
        return
    from eco.jobs.pack import pack

    yield pack(path, work / "packed")  # imported here, as it brings torch, which opening archives does without


def _examined(packed: Path, work: Path) -> dict[str, Any]:
    """What `eco.jobs.examine` found in a process of its own."""
    home, findings = work / "home", work / "findings.json"
    home.mkdir()
    package = str(Path(eco.__file__).parents[1])
    command = [sys.executable, "-I", "-c", _START, package, str(packed), str(home), str(findings)]
    ended = subprocess.run(command, cwd=home, env=_environment(home), capture_output=True, text=True)
    if findings.is_file():
        read: dict[str, Any] = json.loads(findings.read_text(encoding="utf-8"))
        return read
    said = ended.stderr.strip().splitlines()[-1:] or ["nothing"]
    detail = f"the process ended with status {ended.returncode} and said: {said[0]}"
    check = {"name": "process", "passed": False, "detail": detail, "figures": {}}
    return {"name": "", "made_with": {}, "validated_with": {}, "checks": [check]}


def _environment(home: Path) -> dict[str, str]:
    """That of this process, with an empty home folder. Of Eco's cache it has the compiled kernels, no token stores."""
    kernels, cache = cache_folder() / "kernels", home / ".cache" / "eco"
    kernels.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True)
    with suppress(OSError):  # where links are not allowed the kernels are compiled once more
        (cache / "kernels").symlink_to(kernels, target_is_directory=True)
    return {name: value for name, value in os.environ.items() if name != "ECO_CACHE"} | {"HOME": str(home)}
