"""The terms of `objectives.ComprehensiveTrainingLoss`, each a loss with its head, if it needs one.

A row of the batch that has no answer for a term counts for nothing; where no row has one, the loss is 0, with a graph.
Metrics are (B,), NaN for such rows. Losses are in nats and computed in fp32.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eco.data.concepts import CONCEPTS, RATES, STRIDE
from eco.data.labels import QUARTERS
from eco.kernels.cross_entropy import linear_cross_entropy
from eco.models.contract import IGNORE, Batch

Outcome = tuple[Tensor, dict[str, Tensor]]

_LEAST_RATE = 0.01
"""The rarest that a concept is taken to be: the weight of one occurrence stays at 50 or below."""


class View(NamedTuple):
    """hidden, embedded: (B, T, D); head_weight: (V, D). See `ComprehensiveTrainingLoss.forward`."""

    hidden: Tensor
    embedded: Tensor
    batch: Batch
    head_weight: Tensor

    @property
    def real(self) -> Tensor:
        """(B, T) bool: not padding, nor otherwise without a target."""
        return self.batch["targets"] != IGNORE


class Term(nn.Module, ABC):
    """labels: what it reads of a batch beside tokens and targets."""

    labels: frozenset[str] = frozenset()

    @abstractmethod
    def forward(self, view: View) -> Outcome:
        """The loss, a scalar, and metrics."""


class Concepts(Term):
    """Which concepts do the next tokens touch? Each is a binary question at every STRIDE-th position, and both answers
    weigh the same however rare a concept is: who knows nothing answers 1/2 and pays log 2 (the rarest: less)."""

    labels = frozenset({"concepts"})

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, len(CONCEPTS))

    def scores(self, view: View) -> tuple[Tensor, Tensor]:
        """Logits (B, P, C) fp32, and (B, P) bool where a position has text to speak of."""
        at = slice(STRIDE - 1, None, STRIDE)
        return self.head(view.hidden[:, at]).float(), view.real[:, at]

    def probabilities(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., C) fp32, at any position. Training asks as if every other answer were yes; these are the
        odds where a concept is as rare as it is in the King James Bible."""
        found: Tensor = (self.head(hidden).float() + self._rates(hidden.device).logit()).sigmoid()
        return found

    def forward(self, view: View) -> Outcome:
        (logits, real), truth = self.scores(view), view.batch["concepts"]
        rates = self._rates(logits.device)
        losses = F.binary_cross_entropy_with_logits(
            logits, truth, weight=torch.where(truth > 0, 0.5 / rates, 0.5 / (1 - rates)), reduction="none"
        )
        loss = (losses * real[..., None]).sum() / (real.sum() * len(CONCEPTS)).clamp(min=1)
        claimed = ((logits > 0) & real[..., None]).detach()
        right, asked = (claimed * truth).sum((1, 2)), (truth * real[..., None]).sum((1, 2))
        return loss, {"concepts_f1": 2 * right / (claimed.sum((1, 2)) + asked)}  # 0 / 0 is NaN

    @staticmethod
    def _rates(device: torch.device) -> Tensor:
        return torch.tensor(RATES, device=device).clamp(min=_LEAST_RATE)


class Continuation(Term):
    """Which passage comes next? Contrastive predictive coding (InfoNCE, arXiv 1807.03748).

    From the mean hidden state of a segment, its next is to be told among all segments of the batch. A candidate is the
    mean of its tokens' embeddings: its hidden states have seen the segment before it, and would give the answer away.
    """

    segment = 32
    """Tokens."""

    size = 128
    """Dimensions in which passages are compared, at most."""

    temperature = 0.07

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, min(width, self.size), bias=False)
        self.key = nn.Linear(width, min(width, self.size), bias=False)

    def scores(self, view: View) -> tuple[Tensor, Tensor]:
        """Logits (N, N) fp32 of segment j following segment i, and (N,) int64 which one does, IGNORE where none; row by
        row of the batch, N = B * (T // segment)."""
        queries = F.normalize(self.query(self._means(view.hidden)).float(), dim=-1).flatten(0, 1)
        keys = F.normalize(self.key(self._means(view.embedded)).float(), dim=-1).flatten(0, 1)
        whole = self._cut(view.real).all(-1)
        rows, count = whole.shape
        follows = torch.arange(1, rows * count + 1, device=whole.device).view(rows, count)
        there = whole & F.pad(whole[:, 1:], (0, 1))  # the last of a row has no next
        with torch.autocast(queries.device.type, enabled=False):  # a cosine is divided by a small number
            logits = queries @ keys.T / self.temperature
        return (
            logits.masked_fill(~whole.flatten(), torch.finfo(logits.dtype).min),
            torch.where(there, follows, IGNORE).flatten(),
        )

    def forward(self, view: View) -> Outcome:
        if view.hidden.shape[1] < self.segment:
            return nothing(view), {}
        logits, targets = self.scores(view)
        known = (targets != IGNORE).view(len(view.hidden), -1)
        right = (logits.argmax(-1) == targets).view_as(known)
        return cross_entropy(logits, targets), {"continuation_accuracy": right.sum(1) / known.sum(1)}

    def _cut(self, states: Tensor) -> Tensor:
        """(B, T, ...) -> (B, whole segments, segment, ...)."""
        rows, length, *rest = states.shape
        count = length // self.segment
        return states[:, : count * self.segment].reshape(rows, count, self.segment, *rest)

    def _means(self, states: Tensor) -> Tensor:
        return self._cut(states).mean(2)


class Reference(Term):
    """Which book is this, and which quarter of it? Asked of the mean state before the first reference in the window."""

    labels = frozenset({"prefix", "document", "place"})

    def __init__(self, width: int, books: int) -> None:
        super().__init__()
        self.books = books
        self.head = nn.Linear(width, books + QUARTERS)

    def scores(self, view: View) -> tuple[Tensor, Tensor]:
        """Logits (B, books) and (B, QUARTERS), fp32."""
        book, quarter = self.head(before_reference(view)).float().split([self.books, QUARTERS], dim=-1)
        return book, quarter

    def forward(self, view: View) -> Outcome:
        book, quarter = self.scores(view)
        document, place = view.batch["document"], view.batch["place"]
        loss = cross_entropy(book, document) + cross_entropy(quarter, place)
        return loss, {"book_accuracy": correct(book, document), "quarter_accuracy": correct(quarter, place)}


class Genre(Term):
    """Which genre is this? Asked of the same state."""

    labels = frozenset({"prefix", "category"})

    def __init__(self, width: int, genres: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, genres)

    def scores(self, view: View) -> Tensor:
        """Logits (B, genres), fp32."""
        logits: Tensor = self.head(before_reference(view)).float()
        return logits

    def forward(self, view: View) -> Outcome:
        logits, category = self.scores(view), view.batch["category"]
        return cross_entropy(logits, category), {"genre_accuracy": correct(logits, category)}


class Recall(Term):
    """How does the verse of this reference begin? The language model's own loss on these tokens, once more."""

    labels = frozenset({"recall"})

    def forward(self, view: View) -> Outcome:
        asked = view.batch["recall"] & view.real
        if not asked.any():
            return nothing(view), {}
        return linear_cross_entropy(view.hidden[asked], view.head_weight, view.batch["targets"][asked], IGNORE), {}


class LogPartition(Term):
    """The mean square of log sum exp of the logits (z-loss, PaLM, arXiv 2204.02311) at every STRIDE-th position."""

    def forward(self, view: View) -> Outcome:
        at = slice(STRIDE - 1, None, STRIDE)
        logits, real = F.linear(view.hidden[:, at], view.head_weight).float(), view.real[:, at]
        return (logits.logsumexp(-1).square() * real).sum() / real.sum().clamp(min=1), {}


def before_reference(view: View) -> Tensor:
    """(B, D): the mean hidden state of the first `prefix` tokens, which have seen no reference; 0 where prefix is 0."""
    prefix = view.batch["prefix"][:, None]
    place = torch.arange(view.hidden.shape[1], device=prefix.device)
    shares = (place < prefix) / prefix.clamp(min=1)
    return torch.einsum("bt,btd->bd", shares.to(view.hidden.dtype), view.hidden)


def nothing(view: View) -> Tensor:
    """The loss of a batch without an answer, where its formula would divide 0 by 0: the sum of no state at all."""
    return view.hidden[:0].float().sum()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over the targets (N,) that are not IGNORE, 0 where there are none; logits (N, K)."""
    known = (targets != IGNORE).sum().clamp(min=1)
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum") / known


def correct(logits: Tensor, targets: Tensor) -> Tensor:
    """(N,): 1 where the greatest of (N, K) is the target, 0 where it is not, NaN where there is none."""
    return torch.where(targets == IGNORE, torch.nan, (logits.argmax(-1) == targets).float())
