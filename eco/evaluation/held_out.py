"""Loss on held-out text: nats a token, perplexity, and bits per byte, which do not depend on the tokenizer."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from eco.data.order import Permutation
from eco.models.contract import IGNORE, Batch, LanguageModel, evaluating
from eco.training.precision import Precision


class Windows(Protocol):
    """The held-out windows of one part, plain or with labels."""

    def __len__(self) -> int: ...

    def batch(self, index: int, count: int) -> Batch:
        """Windows `index` to `index + count - 1`."""
        ...


def spread(parts: Sequence[Windows], batch: int, windows: int = 0) -> Iterator[Batch]:
    """Batches of at most `batch` windows over all `parts`: all of them, or about `windows` evenly spaced ones."""
    for part, chosen in zip(parts, spaced(parts, windows), strict=True):
        for first in range(0, len(chosen), batch):
            yield gathered(part.batch(index, 1) for index in chosen[first : first + batch])


def spaced(parts: Sequence[Windows], windows: int) -> list[list[int]]:
    """The windows of each part that `spread` takes."""
    total = sum(map(len, parts))
    share = min(1.0, windows / total) if windows else 1.0
    counts = [max(1, round(share * len(part))) for part in parts]
    return [np.linspace(0, len(p) - 1, n).round().astype(int).tolist() for p, n in zip(parts, counts, strict=True)]


def gathered(rows: Iterable[Batch]) -> Batch:
    """Samples as one batch."""
    rows = list(rows)
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


class Unmeasured:
    """The windows that `spread` does not take, in an endless seeded order: each once, then each once again, shuffled.

    What training may look at without spoiling its evaluation. The documents are those of the evaluation.
    """

    def __init__(self, parts: Sequence[Windows], windows: int, seed: int) -> None:
        """
        windows: those of `spread`.
        """
        taken = map(set, spaced(parts, windows))
        self._windows = [(p, i) for p, used in zip(parts, taken, strict=True) for i in range(len(p)) if i not in used]
        self._seed = seed

    def __len__(self) -> int:
        """Windows of one round."""
        return len(self._windows)

    def batch(self, index: int, count: int) -> Batch:
        """Samples `index` to `index + count - 1` of the order: `tokens`, `targets` (count, T) int64."""
        rows = []
        for epoch, place in (divmod(sample, len(self)) for sample in range(index, index + count)):
            part, window = self._windows[int(Permutation(len(self), (self._seed, epoch))(np.array(place)[None])[0])]
            rows.append(part.batch(window, 1))
        return gathered(rows)


@torch.no_grad()
def held_out_loss(
    model: LanguageModel, batches: Iterable[Batch], token_lengths: Tensor, precision: Precision
) -> dict[str, float]:
    """Scores every target of `batches` once by the model's own loss `lm`, in evaluation mode; its mode comes back.

    batches: on the CPU, none of them without a target.
    token_lengths: (V,) bytes of text that each token id stands for, so that the bytes counted are those scored.

    Returns `val_loss` (mean nats a token), `val_ppl`, `val_bits_per_byte`, and `val_tokens`, how many were scored.

    Raises:
        ValueError: there is no target to score.
    """
    nats, tokens, scored_bytes = 0.0, 0, 0
    with evaluating(model):
        for batch in batches:
            with precision.autocast():
                output = model.training_step({name: tensor.to(precision.device) for name, tensor in batch.items()})
            scored = batch["targets"][batch["targets"] != IGNORE]
            nats += float(output.losses["lm"]) * scored.numel()  # the loss is the mean over them
            tokens += scored.numel()
            scored_bytes += int(token_lengths[scored].sum())
    if not tokens:
        raise ValueError("the held-out part has no token to score; give more documents or a larger data.held_out")
    loss = nats / tokens
    return {
        "val_loss": loss,
        "val_ppl": math.exp(min(loss, 700.0)),
        "val_bits_per_byte": nats / math.log(2) / max(1, scored_bytes),
        "val_tokens": tokens,
    }
