"""`eco eval RUN`."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from eco.commands.arguments import print_json, read
from eco.inference.search import Search
from eco.jobs.evaluate import evaluate


@dataclass(frozen=True)
class Arguments:
    """Measure the model of a run on all that was held out from its training: text, or puzzles."""

    run: tyro.conf.Positional[str]
    """The run directory."""
    checkpoint: str = "best"
    """Which weights: best, last, or a step."""
    json: bool = False
    """Print JSON instead of a table."""
    search: Annotated[Search, tyro.conf.OmitArgPrefixes] = field(default_factory=Search)


def run(words: list[str]) -> int:
    arguments = read(Arguments, words, "eval")
    result = evaluate(arguments.run, arguments.checkpoint, **arguments.search.model_dump(exclude_defaults=True))
    if arguments.json:
        print_json(result)
        return 0
    table = Table(show_header=False, box=None)
    for name, value in result.items():
        table.add_row(name.replace("_", " "), _shown(value))
    Console().print(table)
    return 0


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list):
        return "  ".join(map(_shown, value))
    if isinstance(value, dict):
        return "  ".join(f"{key}: {_shown(one)}" for key, one in value.items())
    return str(value)
