"""`eco prove RECIPE --feature NAME | --all`."""

from pathlib import Path
from typing import cast

from rich.console import Console
from rich.table import Table

from eco.commands.arguments import print_json, recipe_and_flags, take
from eco.flags import Flag
from eco.jobs.proofs import COLUMNS, Report, write_report
from eco.jobs.prove import Equal, choose, prove_features

USAGE = """usage: eco prove RECIPE --feature NAME [NAME ...] | --all
                 [--seeds 5] [--equal compute|steps] [--output-dir DIR] [--KEY VALUE ...] [--json]

Trains with a feature and without it, from the same weights on the same data, at equal compute, once for each seed, and
prints what the feature brings on held-out data and what it costs; proves that off is bit-identical to never having had
it. --equal steps compares after as many steps instead. --all proves every feature of the recipe's model and writes
report.md, report.json and report.png into DIR/prove (DIR is the working directory). What is finished is kept there: the
same command goes on where it was stopped. KEY is a setting of the recipe, such as --steps 100.

Exit status 1: a feature is not proved, because its counter or its evidence is 0 while it is on, or off is not
bit-identical."""


def run(words: list[str]) -> int:
    if take(words, "--help") or take(words, "-h"):
        print(USAGE)
        return 0
    as_json, everything = take(words, "--json"), take(words, "--all")
    name, flags = recipe_and_flags(words)
    names = _option(flags, "feature", "").split()
    if names and everything:
        raise ValueError(f"--feature {' '.join(names)} and --all do not go together: --all is every feature; take one")
    if not names and not everything:
        raise ValueError("say which feature: --feature NAME, or --all for every one that the recipe's model can have")
    seeds, equal = _option(flags, "seeds", "5"), _option(flags, "equal", "compute")
    if not seeds.isdecimal():
        raise ValueError(f"--seeds takes a number, not {seeds!r}")
    if equal not in ("compute", "steps"):
        raise ValueError(f"--equal takes compute or steps, not {equal!r}")
    folder = Path(_option(flags, "output-dir", ".")) / "prove"
    console = Console(soft_wrap=True, highlight=False, quiet=as_json)
    report = prove_features(
        name,
        flags,
        choose(name, flags, None if everything else names),
        seeds=int(seeds),
        equal=cast(Equal, equal),
        folder=folder,
        say=lambda text: console.print(text, markup=False),
    )
    if everything:
        write_report(report)
    print_json(report.summary()) if as_json else show(report, console)
    return 0 if report.proved else 1


def show(report: Report, console: Console) -> None:
    """The table, how to read it, and what is not proved."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for column in COLUMNS:
        table.add_column(column, no_wrap=True)
    for proof in report.proofs:
        table.add_row(*proof.cells())
    console.print(table)
    console.print(report.legend(), markup=False)
    for text in report.remarks():
        console.print(text, markup=False)
    console.print(f"{report.folder}", markup=False)


def _option(flags: list[Flag], name: str, default: str) -> str:
    """Takes the command's own flag out of those of the recipe; its words."""
    given = [flag for flag in flags if flag.name == name]
    for flag in given:
        flags.remove(flag)
    if given and not given[-1].value:
        raise ValueError(f"--{name} on {given[-1].origin} needs a value")
    return " ".join(given[-1].value) if given else default
