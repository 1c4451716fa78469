"""Measures a trained model on all of its corpus's held-out text."""

from pathlib import Path
from typing import Any

import torch

from eco.data.prepare import prepare
from eco.evaluate.held_out import held_out_loss
from eco.jobs.load import load
from eco.train.precision import Precision


def evaluate(run: str | Path, checkpoint: str = "best") -> dict[str, Any]:
    """Loss in nats a token, perplexity and bits per byte of one checkpoint over every held-out token.

    Raises:
        ValueError: no such run or checkpoint, or its corpus is no longer there.
    """
    trained = load(run, checkpoint)
    data = prepare(trained.recipe.data, trained.recipe.tokenizer, trained.model.config.context, tokenizer=trained.tokenizer)
    device = next(trained.model.parameters()).device
    precision = Precision(trained.recipe.train.precision, device)
    batches = data.held_out.batches(trained.recipe.train.batch_size)
    metrics = held_out_loss(trained.model, batches, torch.from_numpy(data.tokenizer.token_lengths), precision)
    return {"run": str(trained.path), "step": trained.step, **metrics}
