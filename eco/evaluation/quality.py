"""What a model's texts are like, without a judge: the same figures of its continuations and of the real ones.

No figure is better because it is lower or higher. A model that repeats itself has few distinct n-grams and many bits
less than real text has; one that babbles has more bits and unknown words. Good is what comes near to the real text.
"""

import math
import random
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from eco.data.tokenizer import Tokenizer
from eco.evaluation.ngram import KneserNey
from eco.evaluation.overlap import WORD, words
from eco.inference.engine import Engine
from eco.inference.sampling import Sampling

PROMPT, CONTINUATION = 24, 40
"""Words (runs without white space) of a passage that the model is given, and that it is to write."""

_ROOM = 1.5
"""Tokens a model may write, relative to the real continuation's: its words may be longer."""


class Passage(NamedTuple):
    """Consecutive text of one document; the continuation begins with its white space."""

    prompt: str
    continuation: str


@dataclass(frozen=True)
class Judge:
    """An n-gram model of the training text, over the ids of `tokenizer`. One judge for all models that are compared."""

    ngram: KneserNey
    tokenizer: Tokenizer

    def nats(self, passage: Passage) -> float:
        """Of the continuation, by the prompt."""
        before, after = self.tokenizer.encode(passage.prompt), self.tokenizer.encode(passage.continuation)
        return -float(self.ngram.log_probabilities(np.array(before + after), start=len(before)).sum())


def vocabulary(texts: Iterable[str]) -> frozenset[str]:
    """All words of the texts."""
    return frozenset(word for text in texts for word in words(text))


def passages(documents: Sequence[str], count: int, seed: int) -> list[Passage]:
    """`count` passages that do not overlap, or all there are, drawn by `seed`: the same ones for every tokenizer.

    Raises:
        ValueError: no document is long enough for one.
    """
    found = []
    for text in documents:
        ends = [match.end() for match in re.finditer(r"\S+", text)]
        whole = PROMPT + CONTINUATION
        for first in range(0, len(ends) - whole + 1, whole):
            begin = ends[first - 1] if first else 0
            middle, end = ends[first + PROMPT - 1], ends[first + whole - 1]
            found.append(Passage(text[begin:middle].lstrip(), text[middle:end]))
    if not found:
        raise ValueError(f"a passage has {PROMPT + CONTINUATION} words, and no document is that long; give longer ones")
    return random.Random(seed).sample(found, min(count, len(found)))


def generation_quality(
    engine: Engine, asked: Sequence[Passage], judge: Judge, known: Collection[str], sampling: Sampling
) -> dict[str, dict[str, float]]:
    """`generated` and `real`, the same figures of both, for as many words of each passage as both have.

    distinct_1, distinct_2, distinct_3: different n-grams over all n-grams of all texts (Li et al., arXiv 1510.03055).
    repeated_4: share of a text's 4-grams that stood in it before (arXiv 1908.04319), averaged over texts.
    known_words: share of words that the training text has, `known`, see `vocabulary`.
    bits_per_byte: of the continuation, by the judge, who has seen the prompt.
    words: how many each text has, on average; what a model ended early is missing here.

    sampling: how texts are drawn; the length is that of the passages.
    """
    tokens = max(len(engine.tokenizer.encode(passage.continuation)) for passage in asked)
    drawn = sampling.model_copy(update={"max_new_tokens": math.ceil(_ROOM * tokens)})
    written = [row[0].text for row in engine.generate([passage.prompt for passage in asked], drawn)]
    pairs = [_alike(text, passage.continuation) for text, passage in zip(written, asked, strict=True)]
    return {
        name: _figures(
            [Passage(passage.prompt, pair[side]) for passage, pair in zip(asked, pairs, strict=True)], judge, known
        )
        for side, name in enumerate(("generated", "real"))
    }


def _alike(one: str, other: str) -> tuple[str, str]:
    """Both texts, cut behind as many words as the shorter has."""
    ends = [[match.end() for match in WORD.finditer(text)] for text in (one, other)]
    count = min(map(len, ends))
    if not count:
        return "", ""
    return one[: ends[0][count - 1]], other[: ends[1][count - 1]]


def _figures(texts: list[Passage], judge: Judge, known: Collection[str]) -> dict[str, float]:
    spoken = [passage for passage in texts if passage.continuation]
    if not spoken:
        return {"words": 0.0}
    of_each = [words(passage.continuation) for passage in spoken]
    every = [word for text in of_each for word in text]
    size = sum(len(passage.continuation.encode()) for passage in spoken)
    repeated = [1 - len(set(grams)) / len(grams) for text in of_each if (grams := _grams(text, 4))]
    return {
        **{f"distinct_{n}": _distinct(of_each, n) for n in (1, 2, 3)},
        "repeated_4": sum(repeated) / max(1, len(repeated)),
        "known_words": sum(word in known for word in every) / len(every),
        "bits_per_byte": sum(map(judge.nats, spoken)) / math.log(2) / size,
        "words": len(every) / len(texts),
    }


def _distinct(texts: list[list[str]], n: int) -> float:
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / max(1, len(grams))


def _grams(text: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(text[at : at + n]) for at in range(len(text) - n + 1)]
