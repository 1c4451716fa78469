"""`eco resume RUN [--KEY VALUE ...]`."""

from eco import recipe as recipes
from eco.commands.arguments import recipe_and_flags, take
from eco.commands.results import report
from eco.jobs.train import train_recipe
from eco.observe.run import existing_run

USAGE = """usage: eco resume RUN [--KEY VALUE ...] [--json]

Goes on with the run in the directory RUN from its newest checkpoint. Settings may be changed (--steps 2000), except
those that the saved state depends on."""


def run(words: list[str]) -> int:
    wants_help = take(words, "--help") or take(words, "-h")
    if wants_help or not words:
        print(USAGE)
        return 0 if wants_help else 2
    as_json = take(words, "--json")
    path, flags = recipe_and_flags(words)
    here = existing_run(path)
    recipe = recipes.load(str(here.recipe), flags).model_copy(update={"output_dir": str(here.path), "resume": True})
    result = train_recipe(recipe, here.path.name, quiet=as_json)
    report(result, as_json)
    return 0
