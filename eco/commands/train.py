"""`eco train RECIPE [@FILE] [--KEY VALUE ...]`."""

from rich.console import Console

from eco import recipe as recipes
from eco.commands.arguments import recipe_and_flags, take
from eco.commands.results import report
from eco.config import flat_name
from eco.jobs.train import train_recipe

USAGE = """usage: eco train RECIPE [@FILE] [--KEY VALUE ...] [--dry-run] [--json]

RECIPE is the name of a shipped recipe (`eco recipes`), a YAML file, or a run directory. Each KEY is a dotted key of
the recipe or the flat name beside it; @FILE holds more of them. A run directory that exists is gone on with.
--preset tiny takes the sizes of RECIPE-tiny at its place among the flags; `main` those of RECIPE itself.
--dry-run builds everything and stops before the first step. `eco train RECIPE --help` lists the keys and values."""


def run(words: list[str]) -> int:
    wants_help = take(words, "--help") or take(words, "-h")
    as_json, dry_run = take(words, "--json"), take(words, "--dry-run")
    if wants_help:
        print(USAGE)
        if words and not words[0].startswith(("-", "@")):
            _print_settings(recipes.load(words[0]))
        return 0
    name, flags = recipe_and_flags(words)
    recipe = recipes.load(name, flags)
    result = train_recipe(recipe, name, dry_run=dry_run, quiet=as_json)
    report(result, as_json)
    return 0


def _print_settings(recipe: recipes.Recipe) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print()
    for key, info, value in recipes.settings(recipe):
        flat = flat_name(info)
        names = f"--{key}" + (f"  --{flat}" if flat else "")
        console.print(f"  {names}  = {value!r}", markup=False)
        console.print(f"      {info.description or ''}", markup=False, style="dim")
