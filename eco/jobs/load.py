"""A trained model from its run directory, ready to generate or to solve."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from eco import machine
from eco import recipe as recipes
from eco.data.tokenizer import Tokenizer
from eco.improvement.head import HEAD, Head
from eco.inference.engine import Engine
from eco.inference.guidance import ControlSettings, Guided
from eco.inference.prefix_cache import PrefixCache
from eco.inference.sampling import Sampling
from eco.inference.search import Answer, Search, solve
from eco.jobs.language import language_model
from eco.jobs.output import checkpoints_of
from eco.jobs.puzzles import fit_of, puzzle_model, read_identifiers, task_of
from eco.models.contract import LanguageModel, Model, RecursiveModel
from eco.observe.run import existing_run
from eco.recipe import Recipe
from eco.ship.bundle import MODEL, RECIPE, TOKENIZER, Facts, read_tensors
from eco.ship.manifest import check_folder, is_bundle
from eco.tasks.puzzles.contract import PuzzleConfig, PuzzleTask
from eco.training.checkpoint import Checkpoints
from eco.training.precision import Precision, resolve_device

_PREFIXES = 64 << 20
"""Bytes of keys and values that a loaded model keeps of its latest prompts' beginnings."""

AnyModel = TypeVar("AnyModel", bound=Model)


@dataclass(frozen=True)
class Trained:
    """A run's language model with one checkpoint's weights, in evaluation mode."""

    path: Path
    recipe: Recipe
    tokenizer: Tokenizer
    model: LanguageModel
    step: int

    @cached_property
    def engine(self) -> Engine:
        return Engine(self.model, self.tokenizer, prefix_cache=PrefixCache(_PREFIXES))

    def generate(
        self, prompt: str, *, control: ControlSettings | None = None, guidance: float | None = None, **sampling: Any
    ) -> str:
        """The continuation of one prompt; `sampling` are fields of `eco.inference.sampling.Sampling`.

        control, guidance: see `controlled`, which raises a ValueError where they do not fit.
        """
        return self.controlled(control, guidance).generate([prompt], Sampling(**sampling))[0][0].text

    def controlled(self, control: ControlSettings | None, guidance: float | None = None) -> Engine:
        """The engine that writes as documents of the metadata `control` do; None: as all of them together.

        control: `quality=1.0,priority=high` or such a mapping, see `eco.inference.guidance.read_control`.
        guidance: how strongly it counts, see `eco.inference.guidance.Guided`; None is 1, the model as it was trained.

        Raises:
            ValueError: the model knows no control, the control or the guidance is none, or a guidance has no control.
        """
        if control is not None:
            return Engine(Guided(self.model, control, 1.0 if guidance is None else guidance), self.tokenizer)
        if guidance is not None:
            raise ValueError(f"guidance {guidance} has no control to strengthen; give one too, such as quality=1.0")
        return self.engine


@dataclass(frozen=True)
class TrainedSolver:
    """A run's model of puzzles with one checkpoint's weights, in evaluation mode. identifiers: the table's rows."""

    path: Path
    recipe: Recipe
    task: PuzzleTask
    model: RecursiveModel
    identifiers: tuple[str, ...]
    step: int

    @property
    def autocast(self) -> Callable[[], AbstractContextManager[Any]]:
        """Opens a block that computes in the precision of the training."""
        return Precision(self.recipe.train.precision, next(self.model.parameters()).device).autocast

    def solve(self, text: str, name: str = "", steps: int | None = None, **search: Any) -> list[Answer]:
        """Answers to the puzzles in `text`; `search` are fields of `eco.inference.search.Search`.

        name: see `PuzzleTask.parse`.

        Raises:
            ValueError: the text holds no such puzzle; the message says what and where.
        """
        questions, rows = self.task.parse(text, name), {known: row for row, known in enumerate(self.identifiers)}
        return solve(self.model, self.task, questions, rows, self.autocast, Search(**search), steps)


def load(run: str | Path, checkpoint: str | int = "best", device: str = "auto") -> Trained | TrainedSolver:
    """Loads `best`, `last`, the given step, or what the loop has `improved`, of another arm by the name of its folder
    (`improve-seed-1`). Averaged weights are taken where the run kept them. A bundle has its one model.

    Raises:
        ValueError: no run directory, no such checkpoint, or one that is damaged.
    """
    machine.prepare()
    if is_bundle(Path(run)):
        return load_packed(Path(run), device)
    paths = existing_run(run)
    recipe = recipes.load(str(paths.recipe))
    checkpoints, chosen, target = open_checkpoints(run), _choose(run, str(checkpoint)), resolve_device(device)
    if isinstance(recipe.data, PuzzleConfig):
        task, identifiers = task_of(recipe), read_identifiers(paths)
        solver = puzzle_model(recipe, task, identifiers, target)
        loaded = checkpoints.load(chosen, fit_of(recipe, solver, identifiers))  # other names would be other rows
        return TrainedSolver(paths.path, recipe, task, _filled(solver, loaded.parts), identifiers, loaded.step)
    tokenizer = Tokenizer.load(paths.tokenizer)
    loaded = checkpoints.load(chosen)
    model = _filled(language_model(recipe, tokenizer, target), loaded.parts)
    return Trained(paths.path, recipe, tokenizer, model, loaded.step)


def load_solver(run: str | Path, checkpoint: str | int = "best") -> TrainedSolver:
    """`load` for what only a model of puzzles can do.

    Raises:
        ValueError: see `load`; or the run trained a language model.
    """
    trained = load(run, checkpoint)
    if not isinstance(trained, TrainedSolver):
        raise ValueError(f"{run} trained a language model, which solves no puzzles; `eco generate` lets it write")
    return trained


def load_language(run: str | Path, checkpoint: str | int = "best", device: str = "auto") -> Trained:
    """`load` for what only a language model can do.

    Raises:
        ValueError: see `load`; or the run trained on puzzles.
    """
    trained = load(run, checkpoint, device)
    if not isinstance(trained, Trained):
        raise ValueError(f"{run} trained on puzzles and writes no text; `eco solve {run} --puzzle FILE` lets it solve")
    return trained


def load_packed(folder: Path, device: str = "auto") -> Trained:
    """The model of an unpacked bundle, each of whose files is proved first.

    Raises:
        ValueError: it is damaged, or of a later version.
    """
    check_folder(folder)
    recipe = recipes.load(str(folder / RECIPE))
    tokenizer = Tokenizer.load(folder / TOKENIZER)
    model = language_model(recipe, tokenizer, resolve_device(device))
    model.load_state_dict(read_tensors(folder / MODEL))
    return Trained(folder.absolute(), recipe, tokenizer, model.eval(), Facts.read(folder).step)


def open_checkpoints(run: str | Path) -> Checkpoints:
    """The checkpoints of a run directory."""
    paths = existing_run(run)
    recipe = recipes.load(str(paths.recipe))
    return checkpoints_of(recipe, paths)


def _filled(model: AnyModel, parts: dict[str, Any]) -> AnyModel:
    """The model with a checkpoint's weights, or their average, in evaluation mode."""
    model.load_state_dict(parts["model"])
    average = parts["trainer"]["callbacks"].get("ema") if "trainer" in parts else None
    if average:
        weights = (p for p in model.parameters() if p.requires_grad)
        with torch.no_grad():
            for i, weight in enumerate(weights):
                weight.copy_(average["average"][str(i)])
    return model.eval()


def _choose(run: str | Path, name: str) -> Path:
    if name.startswith("improve"):
        return _improved(existing_run(run).path / ("improve" if name == "improved" else name))
    checkpoints = open_checkpoints(run)
    entries = checkpoints.entries()
    if not entries:
        raise ValueError(f"{run} has no checkpoint yet; `eco resume {run}` trains on")
    if name == "last":
        return entries[-1].path
    if name == "best":
        return (checkpoints.best() or entries[-1]).path
    for entry in entries:
        if str(entry.step) == name:
            return entry.path
    steps = ", ".join(str(entry.step) for entry in entries)
    raise ValueError(f"{run} has no checkpoint {name!r}; there is: best, last, {steps}")


def _improved(folder: Path) -> Path:
    """The weights that the loop's head points to."""
    head = Head.read(folder / HEAD)
    if head is None:
        raise ValueError(f"nothing was improved in {folder}; `eco improve {folder.parent}` does that")
    return folder / "checkpoints" / f"step_{head.weights:08d}"
