"""Loss on held-out text document by document, so that two models can be compared on each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from eco.data.store import Part
from eco.data.stream import Windows
from eco.data.tokenizer import Tokenizer
from eco.evaluation.bootstrap import interval
from eco.models.contract import IGNORE, LanguageModel, evaluating
from eco.training.precision import Precision

_TOKENS = 4096
"""Tokens measured at a time, in whole windows: the logits of more take gigabytes."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DocumentLosses:
    """bits, bytes: (D,) of each document what it costs and its UTF-8 bytes; its end of text counts to its bits."""

    bits: Floats
    bytes: npt.NDArray[np.int64]

    @property
    def bits_per_byte(self) -> float:
        """Over all documents together."""
        return float(self.bits.sum() / self.bytes.sum())

    def over(self, other: "DocumentLosses", seed: int) -> tuple[float, tuple[float, float]]:
        """Bits per byte of this minus the other's, both on the same documents, and its paired 95 % interval."""
        differences = (self.bits - other.bits) / self.bytes.mean()
        return float(differences.mean()), interval(differences, seed)


@torch.no_grad()
def document_losses(
    model: LanguageModel, part: Part, tokenizer: Tokenizer, window: int, precision: Precision
) -> DocumentLosses:
    """The model's loss on every token of `part`, read in windows of `window` tokens."""
    windows, rows = Windows(part, window, tokenizer), max(1, _TOKENS // window)
    nats = np.empty(part.targets)
    with evaluating(model):
        for first in range(0, len(windows), rows):
            batch = windows.batch(first, rows)
            targets = batch["targets"].to(precision.device).flatten()
            with precision.autocast():
                logits = model(batch["tokens"].to(precision.device)).flatten(0, 1)
            losses = F.cross_entropy(logits.float(), targets, ignore_index=IGNORE, reduction="none")[targets != IGNORE]
            nats[first * window : first * window + len(losses)] = losses.cpu().numpy()
    starts = part.documents[:-1] - 1  # the first token of the part is no target
    sizes = tokenizer.token_lengths[part.tokens[1:]]
    return DocumentLosses(np.add.reduceat(nats, starts) / np.log(2), np.add.reduceat(sizes, starts))


def texts(part: Part, tokenizer: Tokenizer) -> Sequence[str]:
    """The documents of a part."""
    ends = part.documents
    return [tokenizer.decode(part.tokens[a : b - 1].tolist()) for a, b in pairwise(ends)]
