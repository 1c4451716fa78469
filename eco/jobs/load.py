"""A trained model from its run directory, ready to generate."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from eco import machine
from eco import recipe as recipes
from eco.data.tokenizer import Tokenizer
from eco.inference.engine import Engine
from eco.inference.sampling import Sampling
from eco.jobs.output import checkpoints_of
from eco.jobs.parts import language_model
from eco.models.contract import LanguageModel
from eco.observe.run import existing_run
from eco.recipe import Recipe
from eco.training.checkpoint import Checkpoints
from eco.training.precision import resolve_device


@dataclass(frozen=True)
class Trained:
    """A run's model with one checkpoint's weights, in evaluation mode."""

    path: Path
    recipe: Recipe
    tokenizer: Tokenizer
    model: LanguageModel
    step: int

    @cached_property
    def engine(self) -> Engine:
        return Engine(self.model, self.tokenizer)

    def generate(self, prompt: str, **sampling: Any) -> str:
        """The continuation of one prompt; `sampling` are fields of `eco.inference.sampling.Sampling`."""
        return self.engine.generate([prompt], Sampling(**sampling))[0][0].text


def load(run: str | Path, checkpoint: str | int = "best", device: str = "auto") -> Trained:
    """Loads `best`, `last` or the given step. Averaged weights are taken where the run kept them.

    Raises:
        ValueError: no run directory, no such checkpoint, or one that is damaged.
    """
    machine.prepare()
    paths = existing_run(run)
    recipe = recipes.load(str(paths.recipe))
    tokenizer = Tokenizer.load(paths.tokenizer)
    parts = open_checkpoints(run).load(_choose(run, str(checkpoint))).parts
    model = language_model(recipe, tokenizer, resolve_device(device))
    model.load_state_dict(parts["model"])
    average = parts["trainer"]["callbacks"].get("ema")
    if average:
        weights = (p for p in model.parameters() if p.requires_grad)
        with torch.no_grad():
            for i, weight in enumerate(weights):
                weight.copy_(average["average"][str(i)])
    return Trained(paths.path, recipe, tokenizer, model.eval(), parts["trainer"]["step"])


def open_checkpoints(run: str | Path) -> Checkpoints:
    """The checkpoints of a run directory."""
    paths = existing_run(run)
    recipe = recipes.load(str(paths.recipe))
    return checkpoints_of(recipe, paths)


def _choose(run: str | Path, name: str) -> Path:
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
