"""Command-line flags before anybody knows their types: `--name value ...` on the command line or in an `@file`."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FROM_PYTHON = "the call"
COMMAND_LINE = "the command line"

SHIPPED = Path(__file__).parent / "recipes"
"""Recipes and files of flags that come with the package."""


@dataclass(frozen=True)
class Flag:
    """One setting and where it was given.

    value: the words behind the flag, None for a bare `--name`; where the origin is FROM_PYTHON, any object.
    optional: it sets nothing where the run has no such setting, as another optimizer than the flag was meant for.
    """

    name: str
    value: Any
    origin: str
    optional: bool = False


def parse(words: Sequence[str], origin: str = COMMAND_LINE) -> list[Flag]:
    """`--a 1 --b x y --c --d=2` -> four flags; a flag takes every word up to the next one that starts with `--`.

    Raises:
        ValueError: a word stands before the first flag.
    """
    flags: list[Flag] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            flags.append(Flag(name, [value] if equals else None, origin))
        elif flags:
            last = flags.pop()
            flags.append(Flag(last.name, [*(last.value or []), word], origin))
        else:
            raise ValueError(f"unexpected {word!r} on {origin}: settings are written as --name value")
    return flags


def split_files(words: Sequence[str]) -> tuple[list[Flag], list[str]]:
    """Takes the `@file` words out: (their flags in order, the other words). A file may be here or be a shipped one."""
    flags = [flag for word in words if word.startswith("@") for flag in read(_located(word[1:]))]
    return flags, [word for word in words if not word.startswith("@")]


def read(path: Path) -> list[Flag]:
    """The flags of a file; blank lines and what follows a `#` are skipped, each line is split as a shell would.

    Raises:
        ValueError: the file cannot be read, or a line cannot be split; the message names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # Windows editors begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        shipped = ", ".join(sorted(file.name for file in SHIPPED.glob("*.txt")))
        raise ValueError(f"cannot read the flags file {path}: {error}; shipped: {shipped}") from error
    flags: list[Flag] = []
    for number, line in enumerate(lines, 1):
        origin = f"{path} line {number}"
        try:
            flags += parse(shlex.split(line, comments=True), origin)
        except ValueError as error:
            raise ValueError(f"{origin}: {error}") from error
    return flags


def _located(name: str) -> Path:
    """The file of that name from the working directory; if there is none, the shipped one."""
    path = Path(name).expanduser()
    shipped = SHIPPED / name
    return shipped if not path.exists() and name == shipped.name and shipped.is_file() else path


def from_mapping(overrides: Mapping[str, Any]) -> list[Flag]:
    """`{"train.steps": 100}` -> flags; the values are taken as they are."""
    return [Flag(name, value, FROM_PYTHON) for name, value in overrides.items()]
