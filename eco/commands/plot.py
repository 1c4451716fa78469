"""`eco plot RUN`."""

from dataclasses import dataclass

import tyro

from eco.commands.arguments import print_json, read
from eco.observe.plots import plot_run
from eco.observe.run import existing_run


@dataclass(frozen=True)
class Arguments:
    """Draw the curves of a run (loss, learning rate, speed, phases) as PNG files in RUN/plots."""

    run: tyro.conf.Positional[str]
    """The run directory."""
    json: bool = False
    """Print the paths as JSON."""


def run(words: list[str]) -> int:
    arguments = read(Arguments, words, "plot")
    paths = [str(path) for path in plot_run(existing_run(arguments.run).path)]
    print_json(paths) if arguments.json else print("\n".join(paths))
    return 0
