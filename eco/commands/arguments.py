"""Shared by the commands: a command's own arguments by tyro, settings of a recipe apart from them, JSON output."""

import json
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from eco.flags import Flag, parse, split_files

Arguments = TypeVar("Arguments")


def read(kind: type[Arguments], words: Sequence[str], command: str) -> Arguments:
    """The command's arguments as an instance of the dataclass `kind`, whose docstring is the help text.

    A mistyped argument ends the process with status 2 and tyro's message.
    """
    return tyro.cli(kind, prog=f"eco {command}", args=list(words), config=(tyro.conf.AvoidSubcommands,))


def recipe_and_flags(words: Sequence[str], default: str | None = None) -> tuple[str, list[Flag]]:
    """`demo @flags.txt --steps 60` -> the recipe's name and the flags, those of files before those typed.

    The flag `--recipe NAME` names it too, so that a file of flags can.

    Raises:
        ValueError: no recipe is named and there is no default.
    """
    from_files, rest = split_files(words)
    name = rest.pop(0) if rest and not rest[0].startswith("--") else default
    flags = from_files + parse(rest)
    for flag in flags:
        if flag.name == "recipe":
            name = " ".join(flag.value or [])
    if not name:
        raise ValueError("which recipe? `eco recipes` lists those that ship; or give the path of a YAML file")
    return name, [flag for flag in flags if flag.name != "recipe"]


def take(words: list[str], switch: str) -> bool:
    """Removes a switch such as `--json` from the words; whether it was there."""
    found = switch in words
    while switch in words:
        words.remove(switch)
    return found


def print_json(value: Any) -> None:
    """One strict JSON document on standard output."""
    print(json.dumps(value, indent=2, allow_nan=False, default=str))
