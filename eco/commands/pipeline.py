"""`eco pipeline NAME`."""

from eco.commands.arguments import print_json, recipe_and_flags, take
from eco.flags import Flag
from eco.jobs import pipeline

USAGE = """usage: eco pipeline NAME [--preset PRESET] [--data.paths DIR] [--models MODEL ...] [--output-dir DIR]
                    [--dry-run] [--continue-on-error] [--KEY VALUE ...] [--json]

Trains the models of a pipeline one after the other, packs each into models_for_download, validates the archives in
fresh processes and compares the models. `simone` is mvlm-gpt2, then simone.

DIR of --data.paths is a library (`eco data build-corpus`), or a folder with kjv.txt, of which one is built first; by
default mvlm_training_dataset_complete in the working directory. --preset laptop takes the small twins. KEY is a setting
of all the models' recipes, such as --steps 100.

The same command goes on behind the stages that are done, and in the middle of a training that was stopped. --dry-run
prints the stages; --continue-on-error goes on with what does not need a stage that failed. It never asks a question.
Exit status 1: a stage failed."""


def run(words: list[str]) -> int:
    if take(words, "--help") or take(words, "-h"):
        print(USAGE)
        return 0
    as_json, dry_run = take(words, "--json"), take(words, "--dry-run")
    continue_on_error = take(words, "--continue-on-error")
    if not words or words[0].startswith(("-", "@")):
        raise ValueError(f"which pipeline? there is: {', '.join(pipeline.PIPELINES)}")
    name, flags = recipe_and_flags(words)
    own = {key: _words(flags, key) for key in ("preset", "data.paths", "models", "output-dir")}
    plan = pipeline.plan(
        name,
        preset=" ".join(own["preset"]) or "main",
        data=" ".join(own["data.paths"]).removeprefix("library:") or None,
        models=own["models"],
        folder=" ".join(own["output-dir"]) or None,
        flags=flags,
    )
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


def _words(flags: list[Flag], name: str) -> list[str]:
    """Takes the command's own flag out of those of the recipes; its words."""
    given = [flag for flag in flags if flag.name == name]
    for flag in given:
        flags.remove(flag)
        if not flag.value:
            raise ValueError(f"--{name} on {flag.origin} needs a value")
    return [str(word) for word in given[-1].value] if given else []
