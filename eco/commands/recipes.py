"""`eco recipes`."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from eco import recipe as recipes
from eco.commands.arguments import print_json, read


@dataclass(frozen=True)
class Arguments:
    """List the recipes that ship with Eco; `eco train NAME` trains one."""

    json: bool = False
    """Print JSON instead of a table."""


def run(words: list[str]) -> int:
    arguments = read(Arguments, words, "recipes")
    listed = [{"name": name, "description": recipes.load(name).description} for name in recipes.names()]
    if arguments.json:
        print_json(listed)
        return 0
    table = Table("recipe", "what it trains", box=None)
    for row in listed:
        table.add_row(row["name"], row["description"])
    Console().print(table)
    return 0
