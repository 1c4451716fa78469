"""`eco checkpoints RUN`."""

from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.table import Table

from eco.commands.arguments import print_json, read
from eco.jobs.load import open_checkpoints
from eco.observe.run import existing_run
from eco.observe.status import read_status


@dataclass(frozen=True)
class Arguments:
    """List the checkpoints of a run; with --verify, read every file again and compare its digest."""

    run: tyro.conf.Positional[str]
    """The run directory."""
    verify: bool = False
    """Check every file; the exit status is 1 if one is damaged."""
    json: bool = False
    """Print JSON instead of a table."""


def run(words: list[str]) -> int:
    arguments = read(Arguments, words, "checkpoints")
    checkpoints = open_checkpoints(arguments.run)
    rows = []
    for entry in checkpoints.entries():
        row = {"step": entry.step, "bytes": entry.bytes, "best": entry.best, "path": str(entry.path)}
        rows.append(row | ({"problems": checkpoints.verify(entry.path)} if arguments.verify else {}))
    if arguments.json:
        print_json(rows)
    else:
        status = read_status(existing_run(arguments.run).status)
        print(f"{status['state']} at step {status['step']}")
        _print_table(rows)
    return 1 if any(row.get("problems") for row in rows) else 0


def _print_table(rows: list[dict[str, object]]) -> None:
    if not rows:
        print("no checkpoint yet")
        return
    table = Table("step", "size", "", "path", *(["state"] if "problems" in rows[0] else []), box=None)
    for row in rows:
        size = f"{int(str(row['bytes'])) / 1e6:.1f} MB"
        cells = [str(row["step"]), size, "best" if row["best"] else "", str(row["path"])]
        if "problems" in row:
            problems = row["problems"]
            cells.append("; ".join(problems) if isinstance(problems, list) and problems else "sound")
        table.add_row(*cells)
    Console(soft_wrap=True).print(table)
