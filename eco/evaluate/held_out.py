"""Loss on held-out text: nats a token, perplexity, and bits per byte, which do not depend on the tokenizer."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from eco.models.contract import IGNORE, Batch, LanguageModel
from eco.train.precision import Precision


@torch.no_grad()
def held_out_loss(
    model: LanguageModel, batches: Iterable[Batch], token_lengths: Tensor, precision: Precision
) -> dict[str, float]:
    """Scores every target of `batches` once, in evaluation mode; the model's mode comes back.

    token_lengths: (V,) bytes of text that each token id stands for, so that the bytes counted are those scored.

    Returns `val_loss` (mean nats a token), `val_ppl`, `val_bits_per_byte`, and `val_tokens`, how many were scored.

    Raises:
        ValueError: there is no target to score.
    """
    was_training = model.training
    model.eval()
    nats, tokens, scored_bytes = 0.0, 0, 0
    for batch in batches:
        with precision.autocast():
            logits = model(batch["tokens"].to(precision.device))
        targets = batch["targets"].to(precision.device).flatten()
        summed = functional.cross_entropy(logits.flatten(0, 1).float(), targets, ignore_index=IGNORE, reduction="sum")
        real = targets[targets != IGNORE]
        nats += float(summed)
        tokens += real.numel()
        scored_bytes += int(token_lengths.to(precision.device)[real].sum())
    model.train(was_training)
    if not tokens:
        raise ValueError("the held-out part has no token to score; give more documents or a larger data.held_out")
    loss = nats / tokens
    return {
        "val_loss": loss,
        "val_ppl": math.exp(min(loss, 700.0)),
        "val_bits_per_byte": nats / math.log(2) / max(1, scored_bytes),
        "val_tokens": tokens,
    }
