"""Measures a trained model on everything that was held out from its training."""

from pathlib import Path
from typing import Any

import torch

from eco.data.prepare import prepare
from eco.data.puzzles.stream import PuzzleExamples
from eco.data.tokenizer import TokenizerConfig
from eco.evaluation.held_out import held_out_loss, spread
from eco.evaluation.puzzles import measure
from eco.evaluation.search import accuracy_by_paths
from eco.inference.search import Search
from eco.jobs.language import text_of
from eco.jobs.load import Trained, TrainedSolver, load
from eco.jobs.puzzles import puzzles_of
from eco.observe.run import existing_run
from eco.tasks.dataset import open_puzzles
from eco.training.precision import Precision


def evaluate(run: str | Path, checkpoint: str | int = "best", **search: Any) -> dict[str, Any]:
    """One checkpoint's figures over all that was held out; `run` and `step` say which checkpoint.

    A language model: loss in nats a token, perplexity, bits per byte. A model of puzzles: see
    `eco.evaluation.puzzles.measure`; `search` are fields of `eco.inference.search.Search`, and with more than one path
    `accuracy_by_paths` is added.

    Raises:
        ValueError: no such run or checkpoint, its data are no longer there, or a search is asked of a language model.
    """
    trained = load(run, checkpoint)
    if isinstance(trained, TrainedSolver):
        figures = _of_puzzles(trained, Search(**search))
    elif search:
        raise ValueError(f"{run} trained a language model; {', '.join(search)} are for models of puzzles")
    else:
        figures = _of_text(trained)
    return {"run": str(trained.path), "step": trained.step, **figures}


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
