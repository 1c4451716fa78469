"""What a batch has beside its tokens and targets where a corpus tells facts of its documents: the weights of their
losses, their metadata, and targets of auxiliary losses that are read off the text and its marks.

All of it is a function of a window's place in its part: it needs no state, and no file beside those of the store.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from eco.data.concepts import labels as concept_labels
from eco.data.concepts import occurrences, token_ends
from eco.data.facts import Table
from eco.data.store import Part
from eco.data.stream import IGNORE, Batch
from eco.data.tokenizer import Tokenizer

Weighting = Literal["none", "metadata"]
"""How documents weigh in the loss: all alike, or by what their metadata say of them (see `document_weights`)."""

FACTS = {
    "control": ("quality", "alignment", "priority"),
    "document": ("document",),
    "place": ("place",),
    "category": ("category",),
}
"""Label -> the facts that it is made of."""

MARKED = frozenset({"prefix", "recall", "document", "place", "category"})
"""Those that need a tokenizer with marks."""

LEAST_PREFIX = 8
"""Tokens in front of a window's first mark from which its book can be asked for."""

RECALLED = 16
"""Targets behind a verse's reference that count as recalled by it."""

QUARTERS = 4

_REFERENCE = re.compile(rb"<verse>[^:\n]{1,40}:\d+ ")
_NAMES = re.compile(rb"<verse>[^:\n]{1,40}:\d+|<(?:chapter|book)>[^\n]*")
"""The text that names a book."""

Ints = npt.NDArray[np.int64]


class Labels:
    """The labels of the windows of one part, each with a row per window:

    weight (T,) fp32: of each target. control (T, 5) fp32 from 0 to 1: of each input token, see
    `eco.models.governance.control.CHANNELS`. concepts (P, C) fp32: see `eco.data.concepts.labels`. prefix, int64: how
    many tokens come before the window's first mark, 0 where fewer than LEAST_PREFIX or where the window begins inside
    of a reference; what they say of their book they say without its name. document, place (0 to 3), category, int64: of
    the text that the window begins in, IGNORE where prefix is 0. recall (T,) bool: the RECALLED targets behind each
    reference.
    """

    def __init__(
        self,
        part: Part,
        facts: Table | None,
        tokenizer: Tokenizer,
        window: int,
        wanted: frozenset[str],
        weights: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """
        wanted: which of them. weights: (documents,), see `document_weights`; None for no label `weight`.

        Raises:
            ValueError: the corpus tells nothing of its documents, or the tokenizer has no marks, and they are wanted.
        """
        _check(facts, tokenizer, wanted)
        self._part, self._window, self._wanted, self._weights = part, window, wanted, weights
        self._facts: Table = facts or {}
        marks = [id_ for mark, id_ in tokenizer.marks.items() if mark in ("<verse>", "<chapter>", "<book>")]
        self._openings = np.array([tokenizer.eos, *marks])
        self._occurring = occurrences(part.tokens, tokenizer) if "concepts" in wanted else None
        self._recalled = _behind_references(part.tokens, tokenizer) if "recall" in wanted else None
        self._naming = _in_names(part.tokens, tokenizer) if "prefix" in wanted else None

    def batch(self, windows: Sequence[int]) -> Batch:
        """The labels of `windows`, a row each."""
        rows = [self._row(window * self._window) for window in windows]
        return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}

    def _row(self, first: int) -> dict[str, npt.NDArray[Any]]:
        """Of the window whose first input is token `first` of the part."""
        inputs = np.minimum(np.arange(first, first + self._window), len(self._part.tokens) - 1)
        targets = np.minimum(inputs + 1, len(self._part.tokens) - 1)
        row: dict[str, npt.NDArray[Any]] = {}
        if self._weights is not None:
            row["weight"] = self._weights[self._documents(targets)].astype(np.float32)
        if "control" in self._wanted:
            row["control"] = self._control(inputs)
        if self._occurring is not None:
            row["concepts"] = concept_labels(self._occurring, first, self._window)
        if self._recalled is not None:
            row["recall"] = self._recalled[targets]
        if self._naming is not None:
            row |= self._prefix(inputs, bool(self._naming[first]))
        return row

    def _documents(self, tokens: Ints) -> Ints:
        """The document of each of the `tokens` of the part; the end of text that opens it counts to the first."""
        found = np.searchsorted(self._part.documents, tokens, side="right") - 1
        return np.clip(found, 0, len(self._part.documents) - 2)

    def _control(self, inputs: Ints) -> npt.NDArray[np.float32]:
        documents = self._documents(inputs)
        quality, alignment = (self._facts[name][documents] / 10 for name in ("quality", "alignment"))
        position = (inputs - self._part.documents[documents]).clip(0) / self._window
        channels = (
            quality,
            alignment,
            self._facts["priority"][documents],
            (quality + alignment) / 2,
            position.clip(0, 1),
        )
        return np.stack(channels, axis=-1).astype(np.float32)

    def _prefix(self, inputs: Ints, named: bool) -> dict[str, npt.NDArray[Any]]:
        """named: the first token belongs to a reference or heading."""
        opening = np.flatnonzero(np.isin(self._part.tokens[inputs], self._openings))
        length = int(opening[0]) if len(opening) else len(inputs)
        length = length if length >= LEAST_PREFIX and not named else 0
        document = int(self._documents(inputs[:1])[0])
        row = {"prefix": length}
        for name in sorted({"document", "place", "category"} & self._wanted):
            value = float(self._facts[name][document])
            row[name] = int(value * QUARTERS if name == "place" else value) if length else IGNORE
        return {name: np.array(value, dtype=np.int64) for name, value in row.items()}


def document_weights(part: Part, facts: Table | None) -> npt.NDArray[np.float64]:
    """(documents,): (1 + 0.1 (alignment - 7)) (1 + 0.05 (quality - 8)), scaled so that its mean over the tokens is 1.

    Raises:
        ValueError: the corpus tells nothing of its documents; or a weight is not positive.
    """
    if missing := _untold(facts, ("quality", "alignment")):
        raise ValueError(
            f"data.weighting is metadata, but the corpus does not tell the {missing} of all its documents; build one "
            "with `eco data build-corpus` and give data.paths library:DIR alone, or set data.weighting to none"
        )
    assert facts is not None, "they are told"
    weights: npt.NDArray[np.float64] = (1 + 0.1 * (facts["alignment"] - 7)) * (1 + 0.05 * (facts["quality"] - 8))
    if not (weights > 0).all():
        raise ValueError(f"the metadata weigh document {int(np.argmin(weights))} by {weights.min()}, not above 0")
    tokens = np.diff(part.documents)
    weights *= tokens.sum() / (weights * tokens).sum()
    return weights


def _behind_references(tokens: npt.NDArray[Any], tokenizer: Tokenizer) -> npt.NDArray[np.bool_]:
    """(n,): is this one of the RECALLED tokens behind the reference of a verse?"""
    text, ends = token_ends(tokens, tokenizer)
    places = np.array([match.end() for match in _REFERENCE.finditer(text)], dtype=np.int64)
    # The blank behind a reference belongs to the verse's first token, which therefore ends after the match does.
    first = np.searchsorted(ends, places - 1, side="right")
    behind = np.zeros(len(tokens) + RECALLED, dtype=np.bool_)
    for offset in range(RECALLED):
        behind[first + offset] = True
    return behind[: len(tokens)]


def _in_names(tokens: npt.NDArray[Any], tokenizer: Tokenizer) -> npt.NDArray[np.bool_]:
    """(n,): does this token belong to a reference or to the line of a chapter or book?"""
    text, ends = token_ends(tokens, tokenizer)
    spans = np.array([match.span() for match in _NAMES.finditer(text)], dtype=np.int64).reshape(-1, 2)
    first, last = np.searchsorted(ends, spans[:, 0], side="right"), np.searchsorted(ends, spans[:, 1] - 1, side="right")
    steps = np.zeros(len(tokens) + 1, dtype=np.int64)
    np.add.at(steps, first, 1)
    np.add.at(steps, last + 1, -1)
    return steps[:-1].cumsum() > 0


def _untold(facts: Table | None, names: Iterable[str]) -> str:
    """The first of these facts that is not known of every document, or an empty string."""
    table = facts or {}
    return next((name for name in names if name not in table or np.isnan(table[name]).any()), "")


def _check(facts: Table | None, tokenizer: Tokenizer, wanted: frozenset[str]) -> None:
    if missing := _untold(facts, (fact for label in sorted(wanted) for fact in FACTS.get(label, ()))):
        raise ValueError(
            f"the corpus does not tell the {missing} of all its documents, but the model reads their metadata; build "
            "one with `eco data build-corpus` and give data.paths library:DIR alone, or set model.control to false and "
            "model.reference_weight and model.genre_weight to 0"
        )
    if not tokenizer.marks and wanted & MARKED:
        raise ValueError(
            "the tokenizer has no marks such as <verse>, by which the auxiliary losses reference, genre and recall "
            "find their targets; set tokenizer.layout to structural, or these weights of the model to 0"
        )
