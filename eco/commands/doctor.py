"""`eco doctor`."""

import sys
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eco import machine
from eco.commands.arguments import print_json, read
from eco.machine import Check


@dataclass(frozen=True)
class Arguments:
    """Show what this machine can do and what is missing, each with its reason and remedy.

    The exit status is 1 if something that Eco needs is missing; every failure is listed, not the first.
    """

    json: bool = False
    """Print JSON instead of a table."""


def run(words: list[str]) -> int:
    arguments = read(Arguments, words, "doctor")
    checks = machine.doctor({"kernels": _kernels})
    failures = [check for check in checks if check.required and not check.ok]
    if arguments.json:
        print_json({"ok": not failures, "checks": [asdict(check) for check in checks]})
        return 1 if failures else 0
    table = Table("", "what", "found", "remedy", box=None)
    for check in checks:
        mark = "[green]ok[/]" if check.ok else "[red]missing[/]" if check.required else "[yellow]absent[/]"
        table.add_row(mark, check.name, escape(check.detail), "" if check.ok else escape(check.remedy))
    Console().print(table)
    for check in failures:
        print(f"eco doctor: {check.name}: {check.detail}; {check.remedy}", file=sys.stderr)
    return 1 if failures else 0


def _kernels() -> list[Check]:
    """Which kernels each kind of device has; compiles the C++ where that has not been done."""
    from eco.kernels import triton
    from eco.kernels.backend import backend

    lack = triton.missing()
    return [
        Check("kernels on the CPU", True, False, backend("cpu")),
        Check(
            "kernels on a GPU", not lack, False, lack or backend("cuda"), "nothing needed on a machine without a GPU"
        ),
    ]
