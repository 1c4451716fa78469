"""Measures a trained model: on everything that was held out from its training, and on tasks."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from eco.config import Config
from eco.data.prepare import prepare
from eco.data.puzzles.stream import PuzzleExamples
from eco.data.tokenizer import TokenizerConfig
from eco.evaluation.held_out import held_out_loss, spread
from eco.evaluation.puzzles import measure
from eco.evaluation.search import accuracy_by_paths
from eco.evaluation.tasks import Sample, TaskSettings, draw_and_check, has_room, summarize
from eco.files import replacing
from eco.inference.search import Search
from eco.jobs.language import text_of
from eco.jobs.load import Trained, TrainedSolver, load
from eco.jobs.puzzles import puzzles_of
from eco.observe.run import existing_run
from eco.sandbox import Level, Sandbox
from eco.tasks.contract import Task
from eco.tasks.dataset import open_puzzles
from eco.tasks.sets import open_tasks
from eco.training.precision import Precision


def evaluate(run: str | Path, checkpoint: str | int = "best", **settings: Any) -> dict[str, Any]:
    """One checkpoint's figures over all that was held out; `run` and `step` say which checkpoint.

    A language model: loss in nats a token, perplexity, bits per byte. With `settings`, fields of
    `eco.evaluation.tasks.TaskSettings`, also `task_sets`: for each set what `eco.evaluation.tasks.summarize` reports
    (or why it is `refused`), the `sandbox` level that was reached and the `seconds` it took; and `lm_eval`: what that
    harness reports.

    A model of puzzles: see `eco.evaluation.puzzles.measure`; `settings` are fields of `eco.inference.search.Search`,
    and with more than one path `accuracy_by_paths` is added.

    Raises:
        ValueError: no such run or checkpoint, its data are no longer there, settings for another kind of model; tasks
            that cannot be had, a sandbox that cannot, or nothing that could be judged.
    """
    trained = load(run, checkpoint)
    if isinstance(trained, TrainedSolver):
        _refuse(settings, TaskSettings, Search, f"{run} trained on puzzles, and these are for language models")
        figures = _of_puzzles(trained, Search(**settings))
    else:
        _refuse(settings, Search, TaskSettings, f"{run} trained a language model, and these are for models of puzzles")
        figures = _of_language(trained, TaskSettings(**settings) if settings else None)
    return {"run": str(trained.path), "step": trained.step, **figures}


def _refuse(settings: Mapping[str, Any], other: type[Config], own: type[Config], why: str) -> None:
    if foreign := settings.keys() & other.model_fields.keys() - own.model_fields.keys():
        raise ValueError(f"{why}: {', '.join(sorted(foreign))}")


def _of_language(trained: Trained, settings: TaskSettings | None) -> dict[str, Any]:
    if settings is None:
        return _of_text(trained)
    settings.check()
    if settings.harness:
        import eco.evaluation.lm_eval  # noqa: F401  # not after hours of other measurements, where the extra is missing
    sets = {name: _open(trained, name, settings) for name in settings.sets}
    figures: dict[str, Any] = _of_text(trained)
    if sets:
        figures["task_sets"] = _of_tasks(trained, sets, settings)
    if settings.harness:
        figures["lm_eval"] = _of_harness(trained, settings)
    return figures


def _of_text(trained: Trained) -> dict[str, Any]:
    recipe = trained.recipe
    data = prepare(text_of(recipe), TokenizerConfig(path=str(existing_run(trained.path).tokenizer)))
    precision = Precision(recipe.train.precision, next(trained.model.parameters()).device)
    windows = spread(data.held_out(trained.model.config.context), recipe.train.batch_size)
    return held_out_loss(trained.model, windows, torch.from_numpy(data.tokenizer.token_lengths), precision)


def _of_puzzles(trained: TrainedSolver, search: Search) -> dict[str, Any]:
    recipe, rows = trained.recipe, trained.recipe.train.batch_size
    config = puzzles_of(recipe)
    puzzles = open_puzzles(config, trained.task).test
    if puzzles.identifiers != trained.identifiers:
        raise ValueError(
            f"the files of the {config.puzzle} puzzles have changed since {trained.path} was trained, so that other "
            "puzzles would be held out and rows of the puzzle table be mistaken; put them back as they were"
        )
    held_out = PuzzleExamples(puzzles)
    precision = Precision(recipe.train.precision, next(trained.model.parameters()).device)
    figures = measure(trained.model, held_out, trained.task, trained.identifiers, rows, precision)
    if search.latent_num_paths > 1:
        figures["accuracy_by_paths"] = accuracy_by_paths(trained.model, held_out, search, rows, precision)
    return figures


def _open(trained: Trained, name: str, settings: TaskSettings) -> list[Task]:
    tasks = open_tasks(name, "held_out", settings.count, settings.seed)
    if not any(has_room(trained.engine, task) for task in tasks):
        raise ValueError(
            f"{name}: the prompts of all {len(tasks)} tasks are longer than the model's context of "
            f"{trained.model.config.context} tokens, so that it can complete none"
        )
    return tasks


def _of_tasks(trained: Trained, sets: Mapping[str, list[Task]], settings: TaskSettings) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    with Sandbox(settings.sandbox) as sandbox, _keeper(settings.out, sandbox.level) as keep:
        for name, tasks in sets.items():
            start = time.monotonic()
            samples = draw_and_check(trained.engine, tasks, sandbox, settings)
            seconds = time.monotonic() - start
            keep(name, samples)
            figures[name] = {**_summary(samples, settings), "sandbox": sandbox.level, "seconds": seconds}
        refused = [summary["refused"] for summary in figures.values() if "refused" in summary]
        if len(refused) == len(figures):
            raise ValueError(refused[0])
    return figures


def _summary(samples: list[list[Sample]], settings: TaskSettings) -> dict[str, Any]:
    """`summarize`, or under `refused` why there is nothing to report: the other sets' figures are not lost by it."""
    try:
        return summarize(samples, settings.ks, settings.seed)
    except ValueError as error:
        return {"refused": str(error)}


def _of_harness(trained: Trained, settings: TaskSettings) -> dict[str, Any]:
    from eco.evaluation.lm_eval import measure as harness  # needs an extra, and seconds to import

    precision = Precision(trained.recipe.train.precision, next(trained.model.parameters()).device)
    return harness(trained.engine, precision, settings.harness, settings.count)


@contextmanager
def _keeper(path: str | None, level: Level) -> Iterator[Callable[[str, list[list[Sample]]], None]]:
    """Gives a function that writes the completions of a set with their verdicts; the file is there at the end."""
    if path is None:
        yield lambda _name, _samples: None
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(Path(path)) as file:

        def keep(name: str, samples: list[list[Sample]]) -> None:
            for of_task in samples:
                for number, sample in enumerate(of_task):
                    file.write(json.dumps({"set": name, "sample": number, **_row(sample), "sandbox": level}) + "\n")

        yield keep


def _row(sample: Sample) -> dict[str, Any]:
    completion = sample.completion
    return {
        "task": sample.task.name,
        "prompt": sample.task.prompt,
        "completion": completion.text if completion else "",
        "finish": completion.finish if completion else None,
        "outcome": sample.verdict.outcome,
        "score": sample.verdict.score,
        "detail": sample.verdict.detail,
    }
