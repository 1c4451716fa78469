"""`eco pipeline NAME`."""

from eco.commands.arguments import print_json, recipe_and_flags, take
from eco.flags import Flag
from eco.jobs import pipeline
from eco.recipe import WHOLE

USAGE = """usage: eco pipeline NAME [--preset PRESET] [--data.paths DIR] [--models MODEL ...] [--output-dir DIR]
                    [--dry-run] [--continue-on-error] [--KEY VALUE ...] [--json]

Trains the models of a pipeline one after the other, packs each into models_for_download, validates the archives in
fresh processes and compares the models. `simone` is mvlm-gpt2, then simone.

DIR of --data.paths is a library (`eco data build-corpus`), or a folder with kjv.txt, of which one is built first; by
default mvlm_training_dataset_complete in the working directory. --preset laptop takes the small twins. KEY is a setting
of all the models' recipes, such as --steps 100.

The same command goes on behind the stages that are done, and in the middle of a training that was stopped; with other
settings or another corpus a model is trained anew, and the earlier run steps aside. --dry-run prints the stages;
--continue-on-error goes on with what does not need a stage that failed. It never asks a question.
Exit status 1: a stage failed."""


OWN = ("preset", "data.paths", "output-dir")
"""Flags with one word that are the command's, not the recipes'."""


def run(words: list[str]) -> int:
    if take(words, "--help") or take(words, "-h"):
        print(USAGE)
        return 0
    as_json, dry_run = take(words, "--json"), take(words, "--dry-run")
    continue_on_error = take(words, "--continue-on-error")
    if not words or words[0].startswith(("-", "@")):
        raise ValueError(f"which pipeline? there is: {', '.join(pipeline.PIPELINES)}")
    name, flags = recipe_and_flags(words)
    models, (preset, data, folder) = _words(flags, "models"), (_word(flags, own) for own in OWN)
    plan = pipeline.plan(
        name,
        preset=preset or WHOLE,
        data=data.removeprefix("library:") or None,
        models=models,
        folder=folder or None,
        flags=flags,
    )
    if dry_run and as_json:
        told = [{"name": stage.name, "done": plan.finished(stage), "command": stage.words} for stage in plan.stages]
        print_json({"folder": plan.folder, "stages": told})
        return 0
    if dry_run:
        for stage in plan.stages:
            print(f"{'done' if plan.finished(stage) else 'to do':6} {stage.name}: eco {' '.join(stage.words)}")
        return 0
    pipeline.run(
        plan, continue_on_error=continue_on_error, say=lambda text: None if as_json else print(text, flush=True)
    )
    if as_json:
        print_json(pipeline.summary(plan))
    else:
        print(f"{'finished' if plan.succeeded else 'FAILED'}: {plan.folder}")
    return 0 if plan.succeeded else 1


def _word(flags: list[Flag], name: str) -> str:
    """The one word of a flag of the command's own, which is taken out of those of the recipe; empty without it."""
    words = _words(flags, name)
    if len(words) > 1:
        raise ValueError(f"--{name} takes one value, not {len(words)}: {' '.join(words)}")
    return "".join(words)


def _words(flags: list[Flag], name: str) -> list[str]:
    """The words of such a flag; of several the last."""
    given = [flag for flag in flags if flag.name == name]
    for flag in given:
        flags.remove(flag)
        if not flag.value:
            raise ValueError(f"--{name} on {flag.origin} needs a value")
    return [str(word) for word in given[-1].value] if given else []
