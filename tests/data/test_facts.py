"""Strata and facts: held out in proportion, and each fact beside the document of which it was told."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from eco.data.corpus import Corpus, scan
from eco.data.prepare import Prepared, TextConfig, prepare
from eco.data.sources import stdlib
from eco.data.sources.contract import Document, SourceOptions
from eco.data.split import choose
from eco.data.tokenizer import TokenizerConfig

Told = list[str | Document]
Tell = Callable[[Told], None]


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch) -> Tell:
    """Makes `stdlib:` yield these documents."""

    def documents(told: Told) -> Callable[[str, SourceOptions], Iterator[str | Document]]:
        return lambda location, options: iter(told)

    return lambda told: monkeypatch.setattr(stdlib, "documents", documents(told))


def scanned(share: float = 0.2) -> Corpus:
    return scan(("stdlib:",), None, share, set())


def prepared(folder: Path, share: float = 0.2) -> Prepared:
    return prepare(TextConfig(held_out=share), TokenizerConfig(vocab_size=300), folder)


def texts(prepared: Prepared, name: str) -> list[str]:
    part = getattr(prepared.stores[0], name)
    bounds = pairwise(part.documents.tolist())
    return [prepared.tokenizer.decode(part.tokens[start : end - 1].tolist()) for start, end in bounds]


def test_facts_stay_with_their_documents(tell: Tell, tmp_path: Path) -> None:
    told: Told = []
    for number in range(60):
        told.append(Document(f"number {number}", f"{number % 4}", {"number": number, "half": number / 2}))
        told += [Document("number 0", "1", {"number": -1.0}), Document(f"number {number // 2}", "", {})]  # duplicates
    tell([*told, Document("number nan", "2", {"other": 1.0}), "number nan too"])
    data = prepared(tmp_path)
    assert data.report.duplicates == 120
    facts = data.facts[0]
    assert facts is not None
    seen = 0
    for name in ("training", "held_out"):
        table, part = getattr(facts, name), texts(data, name)
        assert set(table) == {"half", "number", "other"}
        assert len(part) > 5
        for index, text in enumerate(part):
            expected = float(text.split()[1])
            np.testing.assert_equal([table["number"][index], table["half"][index]], [expected, expected / 2])
            seen += 1
        assert all(values.dtype == np.float64 and len(values) == len(part) for values in table.values())
    assert seen == 62


def test_a_lone_document_has_its_facts_on_both_sides(tell: Tell, tmp_path: Path) -> None:
    tell([Document("line\n" * 50, "a", {"quality": 9.0}), Document("line\n" * 50, "a", {"quality": 1.0})])
    data = prepared(tmp_path)
    facts = data.facts[0]
    assert facts is not None
    assert facts.training["quality"].tolist() == facts.held_out["quality"].tolist() == [9.0]
    assert len(texts(data, "training")) == len(texts(data, "held_out")) == 1


def test_without_facts_there_are_none_and_nothing_changes(tell: Tell, tmp_path: Path) -> None:
    plain: Told = [f"document {number}" for number in range(100)]
    tell(plain)
    corpus = scanned()
    assert corpus.facts is None and prepared(tmp_path).facts == (None,)
    tell([Document(str(text)) for text in plain])
    assert scanned().digest == corpus.digest
    tell([Document(str(text), "", {"number": 1.0}) for text in plain])
    assert (scanned().held_out == corpus.held_out).all(), "facts alone do not move the split"
    assert scanned().digest != corpus.digest
    tell([Document(str(text), "one stratum") for text in plain])
    assert (scanned().held_out != corpus.held_out).any()


def test_the_digest_names_what_was_told(tell: Tell) -> None:
    def digest(**facts: float) -> str:
        tell([Document(f"{number}", "a", facts) for number in range(20)])
        return scanned().digest

    assert digest(a=1.0, b=2.0) == digest(b=2.0, a=1.0)
    assert len({digest(a=1.0), digest(a=2.0), digest(b=1.0), digest()}) == 4


@pytest.mark.parametrize("share", [0.03, 0.1, 0.5])
def test_every_stratum_and_the_whole_meet_their_share(share: float) -> None:
    rng = np.random.default_rng(0)
    strata = [f"stratum {kind}" for kind in range(30) for _ in range(int(rng.integers(1, 60)))]
    sizes = rng.integers(100, 5000, len(strata))
    hashes = rng.integers(0, 2**64, len(strata), dtype=np.uint64)
    held = choose(hashes, sizes, strata, share)
    largest = 5000
    # Half a document is carried over; where the one document that must stay is missed too, up to all that is owed.
    assert abs(sizes[held].sum() - share * sizes.sum()) <= largest / 2
    counts, kept = Counter(strata), Counter(np.array(strata)[~held].tolist())
    for stratum in counts:
        inside = np.array(strata) == stratum
        assert kept[stratum] >= 1
        if counts[stratum] > 2:
            assert abs(sizes[held & inside].sum() - share * sizes[inside].sum()) <= 1.5 * largest


def test_strata_of_one_document_are_chosen_from_like_any_documents() -> None:
    hashes = np.arange(1, 11, dtype=np.uint64) << np.uint64(60)
    sizes = np.full(10, 10)
    held = choose(hashes, sizes, [str(number) for number in range(10)], 0.2)
    assert held.tolist() == choose(hashes, sizes, [""] * 10, 0.2).tolist()
    assert 0 < held.sum() < 10


def test_the_choice_within_a_stratum_is_by_content_and_not_by_order(tell: Tell) -> None:
    told: Told = [Document(f"document {number}", "a" if number % 3 else "b", {}) for number in range(300)]

    def held_out(documents: Told) -> set[str]:
        tell(documents)
        return {text for text, held in scanned().documents() if held}

    forwards = held_out(told)
    grouped = sorted(told, key=lambda document: (document.stratum, -len(document.text), document.text))  # type: ignore[union-attr]
    assert len(forwards & held_out(grouped)) >= len(forwards) - 2, "but for what is carried from stratum to stratum"
    ordered = [int(text.split()[1]) for text in forwards]
    assert 100 < np.mean(ordered) < 200 and len(ordered) in (59, 60, 61)
