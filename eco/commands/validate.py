"""`eco validate RUN|ARCHIVE|BUNDLE`."""

from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eco.commands.arguments import print_json, read
from eco.jobs.validate import validate


@dataclass(frozen=True)
class Arguments:
    """Check a packed model in a process that has nothing but the package and the archive; the exit status is 1 where a
    check fails."""

    packed: tyro.conf.Positional[str]
    """An archive NAME_model.tar.gz, an unpacked one, or a run directory, which is packed for it."""
    json: bool = False
    """Print the report as JSON instead of a table."""


def run(words: list[str]) -> int:
    arguments = read(Arguments, words, "validate")
    report = validate(arguments.packed)
    if arguments.json:
        print_json(report)
        return 0 if report["passed"] else 1
    table = Table(show_header=False, box=None)
    for check in report["checks"]:
        table.add_row("ok" if check["passed"] else "FAILED", check["name"].replace("_", " "), escape(check["detail"]))
    console = Console()
    console.print(table)
    console.print(f"report: {report['report'] or 'could not be written beside it'}", soft_wrap=True, markup=False)
    return 0 if report["passed"] else 1
