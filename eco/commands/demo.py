"""`eco demo [--KEY VALUE ...]`: the whole story on the recipe `demo`: pre-train, warm up, improve, and the control."""

from eco import recipe as recipes
from eco.commands.arguments import print_json, recipe_and_flags, take
from eco.commands.improve import show, summary
from eco.commands.results import show_result
from eco.improvement.config import Control
from eco.jobs.improve import Improved, improve_recipe
from eco.jobs.train import train_recipe, was_stopped

USAGE = """usage: eco demo [--KEY VALUE ...] [--json]

Trains a tokenizer and a small decoder from scratch on the Python source of this interpreter's standard library, lets it
learn the solutions of a few easy tasks, and then improve by itself: it writes programs for tasks that it has not seen,
runs them in the sandbox and learns from those that passed. The same with rewards dealt out by chance is the control. A
few minutes on two cores. Every setting of `eco train demo --help` may be changed."""

CONTROL: Control = "random-reward"


def run(words: list[str]) -> int:
    if take(words, "--help") or take(words, "-h"):
        print(USAGE)
        return 0
    as_json = take(words, "--json")
    _, flags = recipe_and_flags(["demo", *words])
    recipe = recipes.load("demo", flags)
    result = train_recipe(recipe, "demo", quiet=as_json)
    if not as_json:
        show_result(result)
    if was_stopped(result.reason):
        return 0
    improved = improve_recipe(result.run, recipe, controls=(CONTROL,), quiet=as_json)
    if as_json:
        print_json({**result.summary(), "improve": summary(improved)})
        return 0
    show(improved)
    for line in story(improved):
        print(line)
    return 0


def story(improved: Improved) -> list[str]:
    """The last words of the demo: held-out pass@1 before, after, and for the control."""
    method, control = (next(arm for arm in improved.arms if arm.control == name) for name in ("none", CONTROL))
    return [
        f"pass@1 before improving: {100 * method.pass_at_1('before'):.1f} %",
        f"pass@1 after improving: {100 * method.pass_at_1('after'):.1f} %",
        f"pass@1 after the same with random rewards: {100 * control.pass_at_1('after'):.1f} %",
    ]
