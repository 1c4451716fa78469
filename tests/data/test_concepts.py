"""The concepts' words are found where a plain reading of the text finds them, whatever the tokenizer."""

import re
from pathlib import Path

import numpy as np
import pytest

from eco.data.concepts import _LEXICON, CONCEPTS, HORIZON, RATES, STRIDE, labels, occurrences
from eco.data.tokenizer import Tokenizer, TokenizerConfig

KJV = Path(__file__).parents[3] / "shared" / "data" / "kjv" / "kjv.txt"

TEXT = """<chapter>Romans 4 <law>
<verse>Romans 4:3 For what saith the scripture? Abraham BELIEVED God, and it was counted unto him for righteousness.
<prayer> He that believeth-not; faith\u00e9 \u00e9faith hopes hope’s love's graceless “mercy”, un-holy lawn pray
sin--for mercyseat (grace) HolyGhost 1faith2 grâce\u0301 peace"""


def tokenizer(size: int, text: str = TEXT) -> Tokenizer:
    return Tokenizer.train([text * 3], TokenizerConfig(vocab_size=size))


def words(text: str) -> list[tuple[int, str]]:
    """(byte where it ends, small letters) of every word, found letter by letter."""
    found, word, place = [], "", 0
    for i, char in enumerate(text + " "):
        if char.isalpha() or char == "\u0301":
            word += char
        elif word:
            if not (i - len(word) and text[i - len(word) - 1] == "<"):
                found.append((place, word.lower()))
            word = ""
        place += len(char.encode())
    return found


def slow_occurrences(documents: list[str], ids: list[list[int]], tok: Tokenizer) -> list[set[str]]:
    """Of each token: an end of text, then each document's with one behind."""
    concepts: list[set[str]] = [set()]
    for text, tokens in zip(documents, ids, strict=True):
        ends = dict(words(text))
        place = 0
        for token in tokens:
            size = len(tok.decode_bytes([token]))
            spoken = {ends[byte] for byte in range(place + 1, place + size + 1) if byte in ends}
            concepts.append({name for name, concept in _LEXICON.items() if spoken & set(concept["words"])})
            place += size
        concepts.append(set())
    return concepts


def as_sets(bits: np.ndarray) -> list[set[str]]:
    return [{name for bit, name in enumerate(CONCEPTS) if int(mask) >> bit & 1} for mask in bits]


@pytest.mark.parametrize("size", [263, 300, 500])
def test_the_token_in_which_a_word_ends_has_its_concepts(size: int) -> None:
    tok, documents = tokenizer(size), [TEXT, "joy", "ful and merciful", TEXT.lower()]
    ids = [tok.encode(text) for text in documents]
    tokens = np.array([tok.eos] + [i for document in ids for i in [*document, tok.eos]], dtype=np.uint16)
    found = as_sets(occurrences(tokens, tok))
    assert found == slow_occurrences(documents, ids, tok)
    assert {"faith", "righteousness", "holiness", "joy", "peace"} <= set().union(*found)
    assert "law" not in set().union(*found), "neither the mark <law> nor the lawn is the law"


def test_a_text_without_any_has_none() -> None:
    tok = tokenizer(263)
    assert not occurrences(np.array(tok.encode("def f(x): return x")), tok).any()
    assert not occurrences(np.zeros(0, dtype=np.uint16), tok).any()


@pytest.mark.parametrize("first", [0, 7, 300, 900, 1023])
@pytest.mark.parametrize("window", [64, 100, 256])
def test_labels_say_what_comes_within_the_horizon_and_no_sooner(first: int, window: int) -> None:
    dice = np.random.default_rng(first)
    bits = np.where(dice.random(1024) < 0.02, dice.integers(0, 1 << len(CONCEPTS), 1024, dtype=np.uint64), 0)
    found = labels(bits.astype(np.uint64), first, window)
    assert found.dtype == np.float32 and found.shape == (window // STRIDE, len(CONCEPTS))
    for p in range(window // STRIDE):
        ahead = bits[first + (p + 1) * STRIDE :][:HORIZON]
        assert [bool(x) for x in found[p]] == [any(int(m) >> c & 1 for m in ahead) for c in range(len(CONCEPTS))]


def test_the_lexicon_is_forty_nine_concepts_whose_words_name_no_book() -> None:
    assert len(CONCEPTS) == len(set(CONCEPTS)) == 49
    spoken = [word for concept in _LEXICON.values() for word in concept["words"]]
    assert all(re.fullmatch("[a-z]+", word) for word in spoken) and len(set(spoken)) == len(spoken)
    names = (
        "genesis exodus leviticus numbers judges ruth samuel kings chronicles job psalms psalm proverbs ecclesiastes"
    )
    names += " song solomon lamentations acts romans hebrews james peter john jude revelation verse chapter book"
    assert not set(spoken) & set(names.split())


@pytest.mark.skipif(not KJV.is_file(), reason="the King James Bible is not in ../shared/data")
def test_every_word_is_spelled_so_in_the_king_james_bible() -> None:
    text = KJV.read_text()
    there = set(re.findall("[a-z]+", text.lower()))
    assert not {word for concept in _LEXICON.values() for word in concept["words"]} - there
    sample = text[: 1 << 18]  # the Law: other rates, but of that order
    tok = Tokenizer.train([sample], TokenizerConfig(vocab_size=2048))
    bits = occurrences(np.array(tok.encode(sample)), tok)
    found = np.mean([labels(bits, i, 256).mean(0) for i in range(0, len(bits) - 256, 256)], axis=0)
    assert 0.3 < found.mean() / np.mean(RATES) < 3
