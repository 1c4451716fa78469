"""`eco sandbox` and `eco sandbox test`."""

import sys
from dataclasses import asdict, dataclass
from typing import Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eco.commands.arguments import print_json, read
from eco.sandbox import Level
from eco.sandbox.attacks.contract import Assault
from eco.sandbox.attacks.suite import ATTACKS, UNPROTECTED, assaults, controls
from eco.sandbox.levels import ORDER, choose, missing

CELL = 48
"""Characters of what an attack reached that the table shows."""


@dataclass(frozen=True)
class Arguments:
    """Show which levels of the sandbox this machine can have; with `test`, attack each and show what got through.

    The exit status of `test` is 1 if an attack succeeds at a level asked for; without --level that is the level that
    runs take by default, and the others are shown beside it.
    """

    action: tyro.conf.Positional[Literal["levels", "test"]] = "levels"
    """levels: what can be had, and what is missing for the rest. test: run the attacks."""
    level: tuple[Level, ...] = ()
    """Attack only these levels."""
    control: bool = False
    """Also run the attacks where nothing protects, to see that each can succeed. They aim at bait and are bounded."""
    json: bool = False
    """Print JSON instead of a table."""


def run(words: list[str]) -> int:
    arguments = read(Arguments, words, "sandbox")
    return _test(arguments) if arguments.action == "test" else _levels(arguments)


def _levels(arguments: Arguments) -> int:
    reasons = {level: missing(level) for level in arguments.level or ORDER}
    if arguments.json:
        print_json({level: {"available": reason is None, "missing": reason} for level, reason in reasons.items()})
    else:
        table = Table("level", "", "what is missing", box=None)
        for level, reason in reasons.items():
            table.add_row(level, "[red]no[/]" if reason else "[green]yes[/]", escape(reason or ""))
        Console().print(table)
    return 1 if arguments.level and any(reasons.values()) else 0


def _test(arguments: Arguments) -> int:
    """
    Raises:
        ValueError: a level that was asked for cannot be had.
    """
    asked = [choose(level) for level in arguments.level] or [choose(None)]
    shown = asked if arguments.level else [level for level in ORDER if missing(level) is None]
    results: dict[str, list[Assault]] = {UNPROTECTED: list(controls())} if arguments.control else {}
    for level in shown:
        print(f"{level} ...", file=sys.stderr, flush=True)
        results[level] = list(assaults(level))
    let_through = {level: sum(one.succeeded for one in found) for level, found in results.items()}
    if arguments.json:
        found = {level: [asdict(one) for one in assaults] for level, assaults in results.items()}
        print_json({"attacks": len(ATTACKS), "let_through": let_through, "results": found})
    else:
        _print_table(results)
        print(
            "\n".join(f"{level}: {count} of {len(ATTACKS)} attacks got through" for level, count in let_through.items())
        )
    return 1 if any(let_through[level] for level in asked) else 0


def _print_table(results: dict[str, list[Assault]]) -> None:
    table = Table("attack", *results, box=None)
    for number, attack in enumerate(ATTACKS):
        table.add_row(attack.name, *(_cell(found[number]) for found in results.values()))
    Console().print(table)


def _cell(one: Assault) -> str:
    if not one.succeeded:
        return "[green]stopped[/]"
    text = one.evidence if len(one.evidence) <= CELL else one.evidence[: CELL - 1] + "…"
    return f"[red]{escape(text)}[/]"
