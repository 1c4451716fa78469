"""Outcomes of long comparisons in a file, one JSON object a line: what is there is not computed again."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

Outcome = TypeVar("Outcome")


def read(file: Path | None, kind: type[Outcome]) -> list[Outcome]:
    """The outcomes of a file, none if there is no file yet. kind: the dataclass that the lines hold."""
    if file is None or not file.exists():
        return []
    return [kind(**json.loads(line)) for line in file.read_text().splitlines()]


def keep(file: Path | None, outcome: Any) -> None:
    """Shows an outcome on stderr and appends it to the file, if there is one."""
    line = json.dumps(asdict(outcome))
    print(line, file=sys.stderr, flush=True)
    if file is not None:
        with file.open("a") as stream:
            stream.write(line + "\n")
