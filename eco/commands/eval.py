"""`eco eval RUN`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eco.commands.arguments import print_json, read
from eco.config import setting
from eco.evaluation.tasks import TaskSettings
from eco.inference.search import Search
from eco.jobs.evaluate import evaluate


class Settings(TaskSettings, Search):
    """What is measured how: tasks for a language model, a search for a model of puzzles; the seed is of both."""

    seed: int = setting(0, "Same seed: same tasks and completions, same noise of a search.", ge=0)


@dataclass(frozen=True)
class Arguments:
    """Measure the model of a run on all that was held out from its training, text or puzzles, and on tasks in words."""

    run: tyro.conf.Positional[str]
    """The run directory."""
    checkpoint: str = "best"
    """Which weights: best, last, or a step."""
    json: bool = False
    """Print JSON instead of a table."""
    settings: Annotated[Settings, tyro.conf.OmitArgPrefixes] = field(default_factory=Settings)


def run(words: list[str]) -> int:
    arguments = read(Arguments, words, "eval")
    result = evaluate(arguments.run, arguments.checkpoint, **arguments.settings.model_dump(exclude_defaults=True))
    if arguments.json:
        print_json(result)
        return 0
    console = Console()
    console.print(_table({name: value for name, value in result.items() if name not in ("task_sets", "lm_eval")}))
    for name, figures in result.get("task_sets", {}).items():
        console.print(f"\n{escape(name)}", _table(_told(figures)), sep="\n")
    for name, figures in result.get("lm_eval", {}).items():
        console.print(f"\nlm-eval: {escape(name)}", _table(figures), sep="\n")
    return 0


def _table(figures: Mapping[str, Any]) -> Table:
    table = Table(show_header=False, box=None)
    for name, value in figures.items():
        table.add_row(escape(name.replace("_", " ")), escape(_shown(value)))
    return table


def _told(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a set of tasks as people read them; what did not happen is left out."""
    if "refused" in figures:
        return {"nothing to report": figures["refused"]}
    told: dict[str, Any] = {}
    for k, estimate in figures["pass_at"].items():
        told[f"pass@{k}"] = f"{estimate['value']:.4f}   95 % interval {estimate['low']:.4f} to {estimate['high']:.4f}"
        if estimate["tasks"] < figures["tasks"]:
            told[f"pass@{k}"] += f"   of {estimate['tasks']} tasks only"
    told["outcomes"] = "   ".join(f"{outcome} {share:.1%}" for outcome, share in figures["outcomes"].items())
    told |= {name: figures[name] for name in ("score", "tasks", "samples")}
    if figures["no_room"]:
        told["prompt_too_long"] = f"{figures['no_room']} tasks, which count as failed"
    if figures["infrastructure"]:
        told["not_judged"] = f"{figures['infrastructure']} samples, which do not count"
    if figures["not_judged"]:
        told["tasks_left_out"] = ", ".join(figures["not_judged"])
    return told | {"sandbox": figures["sandbox"], "seconds": f"{figures['seconds']:.1f}"}


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list):
        return "  ".join(map(_shown, value))
    if isinstance(value, dict):
        return "  ".join(f"{key}: {_shown(one)}" for key, one in value.items())
    return str(value)
