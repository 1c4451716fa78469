"""`eco eval RUN`."""

from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.table import Table

from eco.commands.arguments import print_json, read
from eco.jobs.evaluate import evaluate


@dataclass(frozen=True)
class Arguments:
    """Measure the model of a run on all held-out text of its corpus."""

    run: tyro.conf.Positional[str]
    """The run directory."""
    checkpoint: str = "best"
    """Which weights: best, last, or a step."""
    json: bool = False
    """Print JSON instead of a table."""


def run(words: list[str]) -> int:
    arguments = read(Arguments, words, "eval")
    result = evaluate(arguments.run, arguments.checkpoint)
    if arguments.json:
        print_json(result)
        return 0
    table = Table(show_header=False, box=None)
    for name, value in result.items():
        table.add_row(name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else str(value))
    Console().print(table)
    return 0
