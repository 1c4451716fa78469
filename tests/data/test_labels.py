"""Labels against a slow reading of the text; and that they are a function of the window's place alone."""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from small_library import BOOKS, CATEGORIES, book_of, prepared, small_library

from eco.data import concepts
from eco.data.labels import FACTS, IGNORE, Labels, document_weights
from eco.data.library.metadata import PRIORITIES
from eco.data.prefetch import prefetch
from eco.data.prepare import TextConfig, prepare
from eco.data.tokenizer import TokenizerConfig

WINDOW = 48
ALL = frozenset({"control", "concepts", "prefix", "document", "place", "category", "recall"})


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return small_library(tmp_path_factory.mktemp("scripture"))


@pytest.fixture(scope="module")
def data(library, tmp_path_factory):
    return prepared(library, tmp_path_factory.mktemp("cache"))


class Slow:
    """One part read token by token. For token i: `document[i]`, `start[i]` and `end[i]` in its document's bytes."""

    def __init__(self, part, tokenizer):
        self.tokens, self.tokenizer = part.tokens.tolist(), tokenizer
        self.first = part.documents.tolist()
        self.texts = [tokenizer.decode(self.tokens[a : b - 1]) for a, b in pairwise(self.first)]
        assert all(text.isascii() for text in self.texts), "a byte is a letter here"
        self.document, self.start, self.end = [0], [0], [0]
        for k, (a, b) in enumerate(pairwise(self.first)):
            at = 0
            for i in range(a, b):
                self.document.append(k)
                self.start.append(at)
                at += len(tokenizer.decode([self.tokens[i]]))
                self.end.append(at)

    def holding(self, document: int, letter: int) -> int:
        """The token that this letter of a document is in."""
        inside = range(self.first[document], self.first[document + 1] - 1)
        return next(i for i in inside if self.start[i] <= letter < self.end[i])

    def names_a_book(self, i: int) -> bool:
        """Does token i lie inside of a reference or heading, behind its mark?"""
        text, at = self.texts[self.document[i]], self.start[i]
        line = text.rfind("\n", 0, at) + 1
        name = re.match(r"<verse>[\w ]+ \d+:\d+|<(chapter|book)>.*", text[line:])
        return name is not None and line < at < line + name.end()

    def recall(self) -> set[int]:
        """The tokens that are recalled: each is found in the text first, and read back."""
        found = set()
        for k, text in enumerate(self.texts):
            for match in re.finditer(r"<verse>[\w ]+ \d+:\d+ (.*)", text):
                first = self.holding(k, match.start(1) - 1)
                read = self.tokenizer.decode(self.tokens[first : first + 16])
                assert read.startswith(" ") and (text[match.start(1) - 1 :].startswith(read) or "\n" in read)
                found |= set(range(first, min(first + 16, len(self.tokens))))
        return found


def weights(part, tokenizer) -> list[float]:
    """Of each document, not yet scaled."""
    books = [BOOKS[book_of(text)[0]] for text in Slow(part, tokenizer).texts]
    return [(1 + 0.1 * (book.alignment - 7)) * (1 + 0.05 * (book.quality - 8)) for book in books]


def batches(data, part, facts, **also):
    made = Labels(part, facts, data.tokenizer, WINDOW, ALL, **also)
    return made.batch(range(-(-part.targets // WINDOW)))


@pytest.fixture(scope="module", params=["training", "held_out"])
def both(request, data):
    """The labels of all windows of a part, and the part read slowly."""
    part, facts = getattr(data.stores[0], request.param), getattr(data.facts[0], request.param)
    assert part.targets % WINDOW, "the last window is padded"
    return batches(data, part, facts), Slow(part, data.tokenizer), part


def test_every_label_has_a_row_for_each_window_and_its_type(both):
    batch, _, part = both
    count = -(-part.targets // WINDOW)
    shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.items()}
    assert shapes == {
        "control": (torch.float32, (count, WINDOW, 5)),
        "concepts": (torch.float32, (count, WINDOW // 16, 49)),
        "recall": (torch.bool, (count, WINDOW)),
        **dict.fromkeys(("prefix", "document", "place", "category"), (torch.int64, (count,))),
    }


def test_control(both):
    batch, slow, part = both
    for w, rows in enumerate(batch["control"].tolist()):
        for t, row in enumerate(rows):
            i = w * WINDOW + t
            if i >= part.targets:
                continue
            k = slow.document[i]
            book = BOOKS[book_of(slow.texts[k])[0]]
            position = min(1.0, max(0, i - slow.first[k]) / WINDOW)
            quality, alignment = book.quality / 10, book.alignment / 10
            expected = [quality, alignment, PRIORITIES[book.priority], (quality + alignment) / 2, position]
            assert row == pytest.approx(expected, abs=1e-6), (w, t)
    assert (batch["control"] >= 0).all() and (batch["control"] <= 1).all()


def test_concepts(both):
    batch, slow, _ = both
    words = [set(concept["words"]) for concept in concepts._LEXICON.values()]
    ending: list[set[int]] = [set() for _ in slow.tokens]
    for k, text in enumerate(slow.texts):
        for match in re.finditer(r"(?<![<A-Za-z])[A-Za-z]+", text):
            about = {c for c, known in enumerate(words) if match[0].lower() in known}
            ending[slow.holding(k, match.end() - 1)] |= about
    for w, rows in enumerate(batch["concepts"].tolist()):
        for p, row in enumerate(rows):
            after = w * WINDOW + (p + 1) * 16
            expected = set().union(*ending[after : after + 64])
            assert {c for c, value in enumerate(row) if value} == expected, (w, p)
    assert 0.01 < batch["concepts"].mean() < 0.9


def test_recall(both):
    batch, slow, part = both
    recalled = slow.recall()
    for w, row in enumerate(batch["recall"].tolist()):
        for t, value in enumerate(row):
            target = w * WINDOW + t + 1
            if target <= part.targets:
                assert value == (target in recalled), (w, t)


def test_prefix_document_place_and_category(both):
    batch, slow, part = both
    openings = {slow.tokenizer.eos, *(slow.tokenizer.marks[mark] for mark in ("<verse>", "<chapter>", "<book>"))}
    refused = 0
    for w in range(len(batch["prefix"])):
        first = w * WINDOW
        inputs = slow.tokens[first : min(first + WINDOW, part.targets)]
        length = next((n for n, token in enumerate(inputs) if token in openings), len(inputs))
        named = slow.names_a_book(first)
        refused += named and length >= 8
        length = length if length >= 8 and not named else 0
        title, chapter = book_of(slow.texts[slow.document[first]])
        expected = {
            "prefix": length,
            "document": list(BOOKS).index(title) if length else IGNORE,
            "place": 4 * (chapter - 1) // BOOKS[title].chapters if length else IGNORE,
            "category": CATEGORIES.index(BOOKS[title].category) if length else IGNORE,
        }
        assert {name: int(batch[name][w]) for name in expected} == expected, w
        assert title not in slow.tokenizer.decode(inputs[:length]), "the prefix names its book"
    assert refused or len(batch["prefix"]) < 100, "the training part has windows that begin inside of a reference"
    assert (batch["prefix"] > 0).any() and batch["prefix"][0] == 0, "the first window begins with an end of text"


@pytest.mark.parametrize("beginning", ["<verse>", "<chapter>", "<book>", None])
def test_a_window_that_begins_at_or_in_a_reference_asks_for_nothing(data, beginning):
    """Windows of every length from 1: some begin exactly where they must not."""
    part, facts = data.stores[0].training, data.facts[0].training
    mark = data.tokenizer.marks[beginning] if beginning else data.tokenizer.eos
    places = [int(i) for i in np.flatnonzero(part.tokens == mark) if 8 < i < part.targets][:20]
    for offset in (0, 1, 2):
        for i in places:
            row = Labels(part, facts, data.tokenizer, i + offset, ALL).batch([1])
            if beginning or offset == 0:
                assert int(row["prefix"][0]) == 0 and int(row["document"][0]) == IGNORE, (beginning, i, offset)


def test_weights_follow_the_formula_and_have_the_mean_1_over_the_tokens(data):
    part, facts = data.stores[0].training, data.facts[0].training
    found = document_weights(part, facts)
    raw, counts = np.array(weights(part, data.tokenizer)), np.diff(part.documents)
    np.testing.assert_allclose(found, raw * counts.sum() / (raw * counts).sum(), rtol=1e-12)
    assert (found * counts).sum() / counts.sum() == pytest.approx(1.0, abs=1e-12) and found.std() > 0.1
    rows = batches(data, part, facts, weights=found)["weight"]
    slow = Slow(part, data.tokenizer)
    flat = rows.flatten()[: part.targets]
    np.testing.assert_allclose(flat, [found[slow.document[i]] for i in range(1, part.targets + 1)], rtol=1e-6)
    assert flat.double().mean().item() == pytest.approx(1.0, abs=1e-7)


def test_batches_are_the_same_however_they_are_asked_for(data):
    stream = data.labelled_stream(WINDOW, ALL, "metadata")
    plain = data.stream(WINDOW)
    whole = stream.batch(0, 2 * len(plain))
    assert set(whole) == {*ALL, "weight", "tokens", "targets"}
    for index, count in ((0, 1), (3, 4), (len(plain) - 2, 5)):
        part = stream.batch(index, count)
        assert all(torch.equal(tensor, whole[name][index : index + count]) for name, tensor in part.items())
    for workers in (0, 1, 3):
        read = prefetch(stream, 1, 3, workers=workers)
        for first in (1, 4, 7):
            batch = next(read)
            assert all(torch.equal(tensor, whole[name][first : first + 3]) for name, tensor in batch.items())
        read.close()
    text = plain.batch(0, 2 * len(plain))
    assert all(torch.equal(text[name], whole[name]) for name in text), "labels do not move the samples"


def test_labels_stand_beside_the_windows_that_they_are_of(data):
    """Each sample of the shuffled stream has the labels of the window with its tokens."""
    stream, part = data.labelled_stream(WINDOW, ALL, "metadata"), data.stores[0].training
    weighed = document_weights(part, data.facts[0].training)
    ordered = batches(data, part, data.facts[0].training, weights=weighed)
    starts = {tuple(part.tokens[w * WINDOW : (w + 1) * WINDOW].tolist()): w for w in range(len(ordered["prefix"]) - 1)}
    batch = stream.batch(0, len(data.stream(WINDOW)))
    found = 0
    for row, tokens in enumerate(batch["tokens"].tolist()):
        if (window := starts.get(tuple(tokens))) is not None:
            found += 1
            assert all(torch.equal(batch[name][row], ordered[name][window]) for name in ordered)
    assert found == len(starts)


def test_a_mixture_gives_each_sample_the_labels_of_its_own_corpus(library, tmp_path):
    other = small_library(tmp_path, seed=1)
    mix = ({"paths": f"library:{library}"}, {"paths": f"library:{other}", "weight": 2.0})
    config = TextConfig(mix=mix, held_out=0.2)
    data = prepare(config, TokenizerConfig(vocab_size=330, layout="structural"), tmp_path / "cache")
    stream, plain = data.labelled_stream(WINDOW, ALL, "metadata"), data.stream(WINDOW)
    batch = stream.batch(5, 40)
    parts, windows = plain.places(5, 40)
    assert set(parts.tolist()) == {0, 1}
    for row, (part, window) in enumerate(zip(parts.tolist(), windows.tolist(), strict=True)):
        store, facts = data.stores[part].training, data.facts[part].training
        alone = Labels(store, facts, data.tokenizer, WINDOW, ALL, document_weights(store, facts)).batch([window])
        assert all(torch.equal(batch[name][row : row + 1], tensor) for name, tensor in alone.items())


def test_held_out_windows_have_their_labels_and_no_weights(data):
    (windows,) = data.labelled_held_out(WINDOW, ALL)
    assert set(windows.batch(0, 2)) == {*ALL, "tokens", "targets"}
    last = windows.batch(len(windows) - 1, 5)
    assert all(len(tensor) == 1 for tensor in last.values())


def test_nothing_is_asked_for_nothing_is_added(data):
    assert set(data.labelled_stream(WINDOW, frozenset(), "none").batch(0, 1)) == {"tokens", "targets"}


def test_what_a_corpus_does_not_tell_is_refused(data, library, tmp_path):
    (tmp_path / "more.txt").write_text("a text of which nothing is known " * 40)
    mixed = TextConfig(paths=(f"library:{library}", str(tmp_path / "more.txt")), held_out=0.2)
    plain = TextConfig(paths=(str(tmp_path / "more.txt"),))
    for config in (mixed, plain):
        made = prepare(config, TokenizerConfig(vocab_size=330, layout="structural"), tmp_path / "cache")
        for label in FACTS:
            with pytest.raises(ValueError, match=r"does not tell the .* of all its documents.*build-corpus"):
                made.labelled_stream(WINDOW, frozenset({label, "prefix"}), "none")
        with pytest.raises(ValueError, match=r"data\.weighting is metadata.*quality"):
            made.labelled_stream(WINDOW, frozenset(), "metadata")
    code = prepared(library, tmp_path / "cache", "code")
    with pytest.raises(ValueError, match="no marks such as <verse>"):
        code.labelled_stream(WINDOW, frozenset({"recall"}), "none")
