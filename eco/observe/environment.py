"""`environment.json`: where a run ran, so that its figures can be judged and repeated."""

import platform
import subprocess
import sys
from dataclasses import asdict
from importlib import metadata
from typing import Any

from eco import machine

_PACKAGES = ("eco-lm", "torch", "numpy", "pydantic", "tyro", "PyYAML", "tokenizers", "tiktoken", "safetensors")


def environment() -> dict[str, Any]:
    """Python, packages, machine, process settings, the commit of the working directory and the command line."""
    return {
        "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in _PACKAGES},
        "machine": asdict(machine.inspect()),
        "settings": machine.prepare()._asdict(),
        "git_commit": _git_commit(),
        "argv": sys.argv,
    }


def installed_version(package: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Commit of the working directory, with `-dirty` where tracked files differ from it; None outside of git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
