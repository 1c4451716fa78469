"""The n-gram baseline: against a slow reference written from the definition, and the sum of its probabilities."""

import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from eco.data.prepare import TextConfig, prepare
from eco.data.tokenizer import TokenizerConfig
from eco.evaluation.ngram import KneserNey, ngram_loss


class Reference:
    """Modified Kneser-Ney with dictionaries, one n-gram at a time."""

    def __init__(self, tokens, vocab_size, order):
        self.vocab_size, self.order = vocab_size, order
        self.counts = {}
        text = [None] * order + list(tokens)
        for n in range(1, order + 1):
            grams = [tuple(text[i - n + 1 : i + 1]) for i in range(order, len(text))]
            if n == order:
                self.counts[n] = Counter(grams)
            else:
                left = defaultdict(set)
                for i, gram in enumerate(grams, order):
                    left[gram].add(text[i - n])
                self.counts[n] = Counter({gram: len(tokens) for gram, tokens in left.items()})
        self.discounts = {n: self.estimate(Counter(self.counts[n].values())) for n in self.counts}

    @staticmethod
    def estimate(n):
        if all(n[c] for c in (1, 2, 3, 4)):
            y = n[1] / (n[1] + 2 * n[2])
            found = 1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]
            if all(0 < d <= c for c, d in enumerate(found, 1)):
                return found
        return 0.5, 1.0, 1.5

    def probability(self, word, context, n):
        if n == 0:
            return 1 / self.vocab_size
        history = tuple(context[len(context) - n + 1 :])
        if len(history) < n - 1:
            return self.probability(word, context, n - 1)
        following = {g[-1]: c for g, c in self.counts[n].items() if g[:-1] == history}
        lower = self.probability(word, context, n - 1)
        if not following:
            return lower
        total = sum(following.values())
        discount = {w: self.discounts[n][min(c, 3) - 1] for w, c in following.items()}
        own = following[word] - discount[word] if word in following else 0
        return own / total + sum(discount.values()) / total * lower


def text(length, vocab_size, seed):
    """Phrases of 1 to 7 tokens from a book of 300, common and rare ones as in language (Zipf), with slips between."""
    book = np.random.default_rng(0)
    phrases = [book.zipf(1.3, size=book.integers(1, 8)) % vocab_size for _ in range(300)]
    generator = np.random.default_rng(seed)
    parts = [phrases[(generator.zipf(1.2) - 1) % 300] for _ in range(length)]
    tokens = np.concatenate(parts)[:length]
    slips = generator.random(length) < 0.1
    return np.where(slips, generator.integers(vocab_size, size=length), tokens).astype(np.uint16)


@pytest.mark.parametrize(("vocab_size", "length", "order"), [(7, 60, 5), (200, 900, 5), (200, 900, 1), (400, 900, 3)])
def test_equal_to_the_definition(vocab_size, length, order):
    training, held_out = text(length, vocab_size - 1, 0), text(60, vocab_size, 1)
    reference = Reference(training.tolist(), vocab_size, order)
    expected = [math.log(reference.probability(w, held_out[:i].tolist(), order)) for i, w in enumerate(held_out)]
    fitted = KneserNey.fit(training, vocab_size, order)
    np.testing.assert_allclose(fitted.log_probabilities(held_out, 0), expected, rtol=1e-12)
    np.testing.assert_array_equal(fitted.log_probabilities(held_out), fitted.log_probabilities(held_out, 0)[1:])


def test_both_kinds_of_discounts_are_in_the_reference():
    """Else the comparison above would say nothing of one of them."""
    discounts = Reference(text(900, 199, 0).tolist(), 200, 5).discounts
    assert discounts[5] == (0.5, 1.0, 1.5) and all(discounts[n] != (0.5, 1.0, 1.5) for n in (1, 2, 3, 4))


@pytest.mark.parametrize("order", [1, 2, 5])
def test_the_probabilities_of_all_tokens_sum_to_one(order):
    vocab_size = 60
    training = text(2000, vocab_size - 5, 2)  # five ids are never met
    model = KneserNey.fit(training, vocab_size, order)
    generator = np.random.default_rng(3)
    for place in generator.integers(len(training) - 4, size=20):
        seen, random = training[place : place + 4], generator.integers(vocab_size, size=4)
        for context in (seen, random, np.concatenate([random[:2], seen[:2]]), training[-4:], training[:1], []):
            rows = [np.concatenate([context, [w]]).astype(int) for w in range(vocab_size)]
            total = sum(math.exp(model.log_probabilities(row, len(row) - 1)[0]) for row in rows)
            assert total == pytest.approx(1, abs=1e-12)


def test_longer_contexts_help_a_text_with_phrases():
    training, held_out = text(20000, 50, 4), text(2000, 50, 5)
    loss = [-KneserNey.fit(training, 50, order).log_probabilities(held_out).mean() for order in range(1, 6)]
    assert loss[0] > loss[1] + 0.3 > loss[2] + 0.6
    assert loss[2] > loss[3] > loss[4] > loss[3] - 0.02, "what longer contexts cannot tell, the shorter ones still do"


@pytest.mark.parametrize(("tokens", "order"), [([], 5), ([1, 9], 5), ([-1, 2], 5), ([1, 2], 0)])
def test_what_cannot_be_fitted_is_refused(tokens, order):
    with pytest.raises(ValueError):
        KneserNey.fit(np.array(tokens, dtype=int), 9, order)


def test_the_loss_of_a_store_is_counted_as_that_of_a_model(corpus: Path, tmp_path: Path):
    prepared = prepare(TextConfig(paths=(str(corpus),), held_out=0.2), TokenizerConfig(vocab_size=400), tmp_path)
    (store,) = prepared.stores
    measured = ngram_loss(store, prepared.tokenizer)
    assert measured["val_tokens"] == store.held_out.targets
    nats = measured["val_loss"] * store.held_out.targets
    assert measured["val_bits_per_byte"] == pytest.approx(nats / math.log(2) / store.held_out.text_bytes)
    assert measured["val_ppl"] == pytest.approx(math.exp(measured["val_loss"]))
    assert measured["val_loss"] < ngram_loss(store, prepared.tokenizer, 1)["val_loss"] - 1
