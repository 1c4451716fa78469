"""`eco demo [--KEY VALUE ...]`: the recipe `demo`, told from start to finish."""

from eco import recipe as recipes
from eco.commands.arguments import recipe_and_flags, take
from eco.commands.results import report
from eco.jobs.train import train_recipe

USAGE = """usage: eco demo [--KEY VALUE ...] [--json]

Trains a tokenizer and a small decoder from scratch on the Python source of this interpreter's standard library, in a
few minutes on two cores, then shows what the model writes. Every setting of `eco train demo --help` may be changed."""


def run(words: list[str]) -> int:
    if take(words, "--help") or take(words, "-h"):
        print(USAGE)
        return 0
    as_json = take(words, "--json")
    _, flags = recipe_and_flags(["demo", *words])
    result = train_recipe(recipes.load("demo", flags), "demo", quiet=as_json)
    report(result, as_json)
    return 0
