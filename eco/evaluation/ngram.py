"""The n-gram baseline: interpolated modified Kneser-Ney (Kneser and Ney, ICASSP 1995; Chen and Goodman, "An empirical
study of smoothing techniques for language modeling", TR-10-98, 1998), over token ids.

What a neural model has to beat: it learns nothing but counts, in seconds, and on a small corpus it is strong. Contexts
run on over end-of-text tokens, as the windows of the language models do, so both see the same text before a target.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eco.data.store import TokenStore
from eco.data.tokenizer import Tokenizer

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

UNKNOWN = -1
"""The number of an n-gram that training never met."""

_FALLBACK = (0.0, 0.5, 1.0, 1.5)
"""Discounts where the counts give none: a vocabulary so small or so well filled that no n-gram occurs once."""


@dataclass(frozen=True)
class _Level:
    """The n-grams of one order n, numbered in ascending order of their keys.

    keys: (K,) number of the first n - 1 tokens * base + the last token.
    share: (K,) (c - D(c)) / total of its context: what is left of the n-gram's relative count after the discount.
    backoff: (contexts,) what the discount gives to the lower order, for each (n - 1)-gram; 1 where nothing follows it.
    """

    keys: Integers
    share: Floats
    backoff: Floats

    def find(self, keys: Integers) -> Integers:
        """The number of each n-gram, UNKNOWN for those that are not there."""
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, place, UNKNOWN)


class KneserNey:
    """p_n(w | h) = (c(hw) - D(c(hw))) / c(h.) + backoff(h) p_(n-1)(w | h without its first token), down to 1 / V.

    Of the highest order, c counts occurrences; below it, the different tokens that stand in front of an n-gram. The
    discounts D(1), D(2), D(3 and more) of each order are estimated from how many n-grams have the counts 1 to 4.
    """

    def __init__(self, levels: list[_Level], vocab_size: int) -> None:
        """See `fit`."""
        self._levels = levels
        self._vocab_size = vocab_size

    @classmethod
    def fit(cls, tokens: npt.NDArray[Any], vocab_size: int, order: int = 5) -> "KneserNey":
        """
        tokens: (N,) ids from 0 to `vocab_size` - 1, one running text.
        order: n, the longest n-gram; a prediction sees the n - 1 tokens before it.

        Raises:
            ValueError: no tokens, one outside the vocabulary, or an order below 1.
        """
        if order < 1:
            raise ValueError(f"an n-gram has at least one token, and the order is {order}")
        if not len(tokens) or tokens.min() < 0 or tokens.max() >= vocab_size:
            raise ValueError(f"the training text must be one token or more, with ids below {vocab_size}")
        base = vocab_size + 1
        # A mark that is no token stands before the text, so that each n-gram has a token in front of it to be counted.
        padded = np.concatenate([np.full(order, vocab_size), tokens.astype(np.int64)])
        numbers = np.zeros_like(padded)  # of the n-gram that ends at each place; of the empty one to begin with
        found: list[tuple[Integers, Integers]] = []  # of each order: keys, and where each key stands
        endings: list[Integers] = []  # of each order: the number of the n-gram at each place
        for _ in range(order):
            before = np.concatenate([[0], numbers[:-1]])
            keys, places, numbers = np.unique(before * base + padded, return_index=True, return_inverse=True)
            found.append((keys, places))
            endings.append(numbers)
        contexts = [1, *(len(keys) for keys, _ in found[:-1])]
        levels = []
        for n, (keys, _) in enumerate(found):
            if n + 1 < order:  # one for each longer n-gram that ends with this one
                shorter = endings[n][found[n + 1][1]]
                counts = np.bincount(shorter, minlength=len(keys))
            else:
                counts = np.bincount(endings[n], minlength=len(keys))
            counts[keys % base == vocab_size] = 0  # the mark is never predicted
            levels.append(_level(keys, counts, keys // base, contexts[n]))
        return cls(levels, vocab_size)

    def log_probabilities(self, tokens: npt.NDArray[Any], start: int = 1) -> Floats:
        """The natural logarithm of the probability of each of `tokens[start:]`, given the tokens before it.

        tokens: (N,) one running text; what stands before its first token is taken to be unknown.
        Returns (N - start,) float64. Over all ids that could stand in one place the probabilities sum to 1.
        """
        ids = tokens.astype(np.int64)
        probabilities = np.full(len(ids), 1 / self._vocab_size)
        numbers = np.zeros(len(ids), dtype=np.int64)
        beginning = 0  # the empty context is known everywhere, all others not before the first token
        for level in self._levels:
            context = np.concatenate([[beginning], numbers[:-1]])
            beginning = UNKNOWN
            known = context != UNKNOWN
            numbers = np.where(known, level.find(context * (self._vocab_size + 1) + ids), UNKNOWN)
            probabilities *= np.where(known, level.backoff[context], 1.0)
            probabilities += np.where(numbers != UNKNOWN, level.share[numbers], 0.0)
        logarithms: Floats = np.log(probabilities[start:])
        return logarithms


def _level(keys: Integers, counts: Integers, contexts: Integers, number: int) -> _Level:
    """
    contexts: (K,) the number, below `number`, of the first n - 1 tokens of each n-gram.
    """
    totals = np.bincount(contexts, weights=counts, minlength=number)
    taken = _discounts(counts)[np.minimum(counts, 3)]
    freed = np.bincount(contexts, weights=taken, minlength=number)
    used = np.maximum(totals, 1)
    return _Level(keys, (counts - taken) / used[contexts], np.where(totals > 0, freed / used, 1.0))


def _discounts(counts: Integers) -> Floats:
    """(4,) what is taken from the counts 0, 1, 2, and 3 or more (Chen and Goodman, equation 26)."""
    n = np.bincount(np.minimum(counts, 5), minlength=6)[:5].astype(np.float64)
    if (n[1:] > 0).all():
        y = n[1] / (n[1] + 2 * n[2])
        discounts = [0.0, *(k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))]
        if all(0 < discount <= k for k, discount in enumerate(discounts) if k):
            return np.array(discounts)
    return np.array(_FALLBACK)


def ngram_loss(store: TokenStore, tokenizer: Tokenizer, order: int = 5) -> dict[str, float]:
    """Fits the training part and scores every target of the held-out part once.

    Returns `val_loss` (mean nats a token), `val_ppl`, `val_bits_per_byte` and `val_tokens`, each as
    `eco.evaluation.held_out.held_out_loss` counts it, so that they stand beside those of a model.

    Raises:
        ValueError: there is no target to score.
    """
    held_out = store.held_out.tokens
    if len(held_out) < 2:
        raise ValueError("the held-out part has no token to score; give more documents or a larger data.held_out")
    model = KneserNey.fit(store.training.tokens, tokenizer.vocab_size, order)
    nats = -float(model.log_probabilities(held_out).sum())
    targets = len(held_out) - 1
    return {
        "val_loss": nats / targets,
        "val_ppl": math.exp(nats / targets),
        "val_bits_per_byte": nats / math.log(2) / max(1, int(tokenizer.token_lengths[held_out[1:]].sum())),
        "val_tokens": targets,
    }
