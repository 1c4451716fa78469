"""Measures a trained model on all of its corpus's held-out text."""

from pathlib import Path
from typing import Any

import torch

from eco.data.prepare import prepare
from eco.data.tokenizer import TokenizerConfig
from eco.evaluation.held_out import held_out_loss, spread
from eco.jobs.load import load
from eco.observe.run import existing_run
from eco.training.precision import Precision


def evaluate(run: str | Path, checkpoint: str | int = "best") -> dict[str, Any]:
    """Loss in nats a token, perplexity and bits per byte of one checkpoint over every held-out token.

    Raises:
        ValueError: no such run or checkpoint, or its corpus is no longer there.
    """
    trained = load(run, checkpoint)
    tokenizer = TokenizerConfig(path=str(existing_run(run).tokenizer))
    data = prepare(trained.recipe.data, tokenizer)
    precision = Precision(trained.recipe.train.precision, next(trained.model.parameters()).device)
    windows = spread(data.held_out(trained.model.config.context), trained.recipe.train.batch_size)
    metrics = held_out_loss(trained.model, windows, torch.from_numpy(data.tokenizer.token_lengths), precision)
    return {"run": str(trained.path), "step": trained.step, **metrics}
