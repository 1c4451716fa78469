"""A run that trains a recursive model on puzzles."""

import json
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
import xxhash

from eco.data.puzzles.stream import PuzzleExamples, PuzzleStream
from eco.evaluation.puzzles import quick_measure
from eco.files import write_json
from eco.jobs.work import Work
from eco.models.contract import Batch, PuzzleModelConfig, RecursiveModel, build_model
from eco.observe.run import RunPaths
from eco.plugins import find
from eco.recipe import Recipe
from eco.tasks.dataset import open_puzzles
from eco.tasks.puzzles.contract import PuzzleConfig, PuzzleTask
from eco.training.callbacks import Row
from eco.training.precision import Precision


class PuzzleWork(Work):
    """A family of puzzles as memory-mapped sets, and a recursive model over its grids."""

    model: RecursiveModel
    decisive = ("val_error", "val_loss")

    def __init__(self, recipe: Recipe, device: torch.device, say: Callable[[str], None]) -> None:
        """
        Raises:
            ValueError: the puzzles cannot be had, or the recipe's settings do not fit them.
        """
        _check_no_text(recipe)
        config = puzzles_of(recipe)
        self._recipe = recipe
        self._task = task_of(recipe)
        self._puzzles = open_puzzles(config, self._task, say=say)
        self._stream = PuzzleStream(self._puzzles.train, config.seed)
        self._held_out = PuzzleExamples(self._puzzles.test)
        self.model = puzzle_model(recipe, self._task, self._puzzles.test.identifiers, device)

    @property
    def content(self) -> str:
        return self._puzzles.content

    def check_batch(self, count: int) -> None:
        """Refuses nothing: a set is never empty, and a batch may span several epochs, each of which deals one puzzle of
        every group."""

    def batch(self, index: int, count: int) -> Batch:
        return self._stream.batch(index, count)

    def measure(self, rows: int, precision: Precision) -> Row:
        return quick_measure(self.model, self._held_out, rows, precision, self._recipe.train.eval_windows)

    def fit(self) -> dict[str, Any]:
        return fit_of(self._recipe, self.model, self._puzzles.test.identifiers)

    def describe(self, run: RunPaths) -> list[Path]:
        write_json(run.identifiers, list(self._puzzles.test.identifiers))
        return [run.identifiers]

    def samples(self, run: RunPaths, step: int) -> list[str]:
        return []

    def headline(self, before: Row, after: Row) -> str:
        first, last = before["val_exact_accuracy"], after["val_exact_accuracy"]
        return f"held-out puzzles solved: {first:.1%} before training, {last:.1%} after"

    def next_command(self, run: Path) -> str:
        return f"eco solve {run} --puzzle FILE"


def puzzles_of(recipe: Recipe) -> PuzzleConfig:
    """The recipe's data, which must be puzzles for such a model.

    Raises:
        ValueError: they are text.
    """
    if not isinstance(recipe.data, PuzzleConfig):
        raise ValueError(f"model.family {recipe.model.family} learns puzzles; name their family in data.puzzle")
    return recipe.data


def task_of(recipe: Recipe) -> PuzzleTask:
    """The family of puzzles with the recipe's settings."""
    config = puzzles_of(recipe)
    task: PuzzleTask = find("tasks.puzzles", config.puzzle).build(config)
    return task


def puzzle_model(recipe: Recipe, task: PuzzleTask, identifiers: Sequence[str], device: torch.device) -> RecursiveModel:
    """The recipe's model with its initial weights, its sizes taken from the puzzles where they are 0.

    Raises:
        ValueError: a size is given and is too small for the puzzles, or the architecture is none for puzzles.
    """
    config = recipe.model
    if not isinstance(config, PuzzleModelConfig):
        raise ValueError(f"model.family {config.family} does not learn puzzles; take trm, or leave data.puzzle out")
    wanted = {"vocab_size": task.vocab_size, "length": prod(task.shape), "identifiers": len(identifiers)}
    for name, size in wanted.items():
        given = getattr(config, name)
        if given and given < size:
            raise ValueError(f"model.{name} is {given}, but the puzzles have {size}; raise it, or leave it at 0")
    sizes = {name: getattr(config, name) or size for name, size in wanted.items()}
    model = build_model(find("models", config.family).build, config.model_copy(update=sizes), recipe.train.seed, device)
    assert isinstance(model, RecursiveModel), "a PuzzleModelConfig builds a RecursiveModel"
    return model


def fit_of(recipe: Recipe, model: RecursiveModel, identifiers: Sequence[str]) -> dict[str, Any]:
    """See `Work.fit`."""
    digest = xxhash.xxh3_64_hexdigest("\n".join(identifiers).encode())
    return {
        "model": model.config.model_dump(mode="json"),
        "the list of names in the puzzle table": f"{digest} ({len(identifiers)} names)",
        "optimizer": recipe.optimizer.name,
        "precision_scaler": recipe.train.precision == "fp16",
    }


def read_identifiers(run: RunPaths) -> tuple[str, ...]:
    """The rows of a run's puzzle table by name.

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        names = json.loads(run.identifiers.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the names of the puzzle table, {run.identifiers}: {error}") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"cannot read the names of the puzzle table, {run.identifiers}: it is not a list of names")
    return tuple(names)


def _check_no_text(recipe: Recipe) -> None:
    for name in ("prompts", "sampling", "tokenizer"):
        if getattr(recipe, name) != Recipe.model_fields[name].get_default():
            raise ValueError(f"{name} is for language models, and data.puzzle names puzzles; leave it out")
