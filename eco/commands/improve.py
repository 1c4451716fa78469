"""`eco improve RUN|RECIPE [--KEY VALUE ...]`."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from eco.commands.arguments import print_json, recipe_and_flags, take
from eco.improvement.arms import Arm, gain, gain_over
from eco.jobs.improve import CONTROLS, Improved, improve_recipe, open_run

USAGE = """usage: eco improve RUN|RECIPE [@FILE] [--KEY VALUE ...] [--with-controls] [--json]

Lets the language model of a run write programs for tasks, runs them in the sandbox, learns from what passed, measures
on tasks that were held out, and keeps the new weights or goes back. A RECIPE is trained first. It goes on where it was
stopped. KEY is a setting of the recipe's section `improve` (`eco train RECIPE --help` lists them), such as --rounds 4,
--improve-tasks synthesis:2, --objective grpo, or --control random-reward, which makes a control of equal compute in
place of the method. --with-controls runs the method and all of its controls."""


def run(words: list[str]) -> int:
    if take(words, "--help") or take(words, "-h"):
        print(USAGE)
        return 0
    as_json, with_controls = take(words, "--json"), take(words, "--with-controls")
    name, flags = recipe_and_flags(words)
    run, recipe = open_run(name, flags, quiet=as_json)
    improved = improve_recipe(run, recipe, controls=CONTROLS if with_controls else (), quiet=as_json)
    print_json(summary(improved)) if as_json else show(improved)
    return 0


def show(improved: Improved) -> None:
    """The arms of the run beside each other. A gain without its controls is not called one."""
    console = Console(soft_wrap=True, highlight=False)
    table = Table("arm", "seed", "rounds", "pass@1 before", "after", "points (95 % interval)", box=None)
    for arm in improved.arms:
        before, after = (f"{100 * arm.pass_at_1(when):.1f} %" for when in ("before", "after"))
        table.add_row(_called(arm), str(arm.seed), str(arm.rounds), before, after, str(gain([arm])))
    console.print(table)
    for line in verdict(improved.arms):
        console.print(line, markup=False)
    console.print(f"{improved.folder}\ncurve: {improved.curve}", markup=False)
    if improved.folder.name == "improve":  # the one that `--checkpoint improved` means
        line = f"go on: eco generate {improved.run} --checkpoint improved --prompt 'def solve(text):'"
        console.print(line, markup=False)


def verdict(arms: Sequence[Arm]) -> list[str]:
    """What the method gained over each control, or which controls are missing to say so."""
    method = [arm for arm in arms if arm.control == "none"]
    over = {control: gain_over(method, [arm for arm in arms if arm.control == control]) for control in CONTROLS}
    lines = [f"gain over {control}, in points: {gained}" for control, gained in over.items() if gained]
    if missing := [control for control, gained in over.items() if not gained]:
        lines.append(
            "no result yet without controls of the same objective, seed and rounds: eco improve RUN --control "
            + " | ".join(missing)
        )
    return lines


def _called(arm: Arm) -> str:
    return arm.objective if arm.control == "none" else arm.control


def summary(improved: Improved) -> dict[str, object]:
    """The same as plain data for JSON."""
    return {
        "run": str(improved.run),
        "folder": str(improved.folder),
        "curve": str(improved.curve),
        "arms": [
            {
                "arm": _called(arm), "control": arm.control, "seed": arm.seed, "rounds": arm.rounds,
                "seconds": arm.seconds, "pass_at_1_before": arm.pass_at_1("before"),
                "pass_at_1_after": arm.pass_at_1("after"), "difference": vars(gain([arm])),
            }
            for arm in improved.arms
        ],
    }  # fmt: skip
