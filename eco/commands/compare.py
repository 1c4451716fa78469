"""`eco compare RUN RUN ...`."""

from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.table import Table

from eco.commands.arguments import print_json, read
from eco.jobs.compare import compare, lines, verdicts


@dataclass(frozen=True)
class Arguments:
    """Compare the models of several runs on the text that was held out from all: loss on the same documents with its
    interval, recall of verses, quality of what they write, speed and memory. The first run is what the others are
    measured against, and a 5-gram Kneser-Ney model stands beside them."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """The run directories, two or more."""
    output_dir: str = "comparison"
    """Where comparison.json, comparison.md and comparison.png go."""
    checkpoint: str = "best"
    """Which weights: best, last, or a step."""
    verses: int = 40
    """How many verses each model is asked for by their references."""
    seed: int = 0
    """Same seed: same verses, same continuations."""
    json: bool = False
    """Print JSON instead of a table."""


def run(words: list[str]) -> int:
    arguments = read(Arguments, words, "compare")
    report = compare(
        arguments.runs,
        arguments.output_dir,
        checkpoint=arguments.checkpoint,
        verses=arguments.verses,
        seed=arguments.seed,
    )
    if arguments.json:
        print_json(report)
        return 0
    heading, *rows = lines(report)
    table = Table(box=None)
    for name in heading:
        table.add_column(name, justify="left" if not name else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    for verdict in verdicts(report):
        console.print(verdict, soft_wrap=True, markup=False, highlight=False)
    console.print(f"written to {arguments.output_dir}", soft_wrap=True, markup=False, highlight=False)
    return 0
