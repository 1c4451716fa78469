"""`decisions.jsonl`: what was decided after each round and why, one strict JSON object a line."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eco.files import replacing
from eco.observe.metrics import plain


class Decisions:
    """The file of one run of the loop, to which each round appends. A kill may tear the last line, which then counts
    as not written; opening the file for appending repairs it."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            ValueError: a line before the last is damaged.
        """
        self.path = path
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            self._replace(read_decisions(path))

    def append(self, decision: Mapping[str, Any]) -> None:
        """Puts a decision on the disk before it returns. Its `round` is above those before.

        Figures may be numpy's or tensors of one; those that are not finite become null.
        """
        assert isinstance(decision.get("round"), int), "a decision needs its round"
        line = json.dumps(_strict(decision), allow_nan=False) + "\n"
        with open(self.path, "ab") as stream:
            stream.write(line.encode("ascii"))
            stream.flush()
            os.fsync(stream.fileno())

    def read(self) -> list[dict[str, Any]]:
        """All decisions in their order; see `read_decisions`."""
        return read_decisions(self.path)

    def truncate_after(self, round: int) -> None:
        """Drops what was decided after `round`: that round is done again."""
        decisions = self.read()
        kept = [decision for decision in decisions if decision["round"] <= round]
        if len(kept) < len(decisions):
            self._replace(kept)

    def _replace(self, decisions: list[dict[str, Any]]) -> None:
        with replacing(self.path) as stream:
            stream.writelines(json.dumps(decision, allow_nan=False) + "\n" for decision in decisions)


def read_decisions(path: Path) -> list[dict[str, Any]]:
    """The decisions of a file, none where there is no file; a torn last line is left out.

    Raises:
        ValueError: another line is damaged.
    """
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")  # after the last line end comes nothing, or a line that was torn
    decisions = []
    for number, line in enumerate(lines, start=1):
        try:
            decision = json.loads(line)
            decision["round"] + 0
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}, line {number} is damaged ({error}); move the file aside to go on without the history"
            ) from error
        decisions.append(decision)
    return decisions


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _strict(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(member) for member in value]
    return plain(value)
