"""The structural layout and seed words: marks are one token each and text all the same, seeds cut no other word."""

import json
from itertools import accumulate, takewhile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from xxhash import xxh3_128_hexdigest

from eco.data import bulk
from eco.data.corpus import scan
from eco.data.pieces import PATTERN
from eco.data.prepare import TextConfig, prepare
from eco.data.seeds import seed_words
from eco.data.structure import MARKS, STRUCTURAL_TOKENS, between_marks
from eco.data.tokenizer import Tokenizer, TokenizerConfig

SPECIAL = STRUCTURAL_TOKENS[:6]
VERSES = [
    f"<book>Genesis\n<chapter>Genesis {c} <law>\n"
    + "".join(
        f"<verse>Genesis {c}:{v} And God said, Let there be {every} {c * v}; since every sinner loveth\n"
        for v, every in enumerate(("light", "evening", "a firmament", "every beast", "godliness", "lovingkindness"), 1)
    )
    for c in range(1, 30)
]
PIECES = st.sampled_from(
    [
        *STRUCTURAL_TOKENS,
        "<|endoftext|>",
        "<verse",
        "verse>",
        "<<",
        ">",
        "</verse>",
        " ",
        "\n",
        "Genesis",
        " God",
        "é",
        "☃",
        "12",
    ]
)
TEXT = st.lists(st.one_of(PIECES, st.text(st.characters(exclude_categories=["Cs"]), max_size=6))).map("".join)


@pytest.fixture(scope="module")
def plain() -> Tokenizer:
    return Tokenizer.train(VERSES, TokenizerConfig(vocab_size=1000, layout="structural"))


@pytest.fixture(scope="module")
def seeded() -> Tokenizer:
    return Tokenizer.train(VERSES, TokenizerConfig(vocab_size=1100, layout="structural", seeds=True))


def test_the_layout(plain: Tokenizer) -> None:
    content = json.loads(plain.content)
    assert [token["content"] for token in content["added_tokens"]] == list(STRUCTURAL_TOKENS)
    assert [plain.decode([i]) for i in range(16)] == [""] * 6 + list(MARKS)
    assert (plain.pad, plain.eos) == (STRUCTURAL_TOKENS.index("<pad>"), STRUCTURAL_TOKENS.index("<eos>")) == (0, 3)
    assert plain.marks == {mark: i for i, mark in enumerate(STRUCTURAL_TOKENS) if i > 5}
    assert plain.token_lengths[:16].tolist() == [0] * 6 + [len(mark) for mark in MARKS]


def test_other_layouts_have_no_marks(tokenizer: Tokenizer) -> None:
    assert tokenizer.marks == {}
    assert len(tokenizer.encode("<verse>")) > 1


@given(TEXT)
@settings(max_examples=300, deadline=None)
@pytest.mark.parametrize("kind", ["plain", "seeded"])
def test_any_text_round_trips_and_both_paths_agree(request: pytest.FixtureRequest, kind: str, text: str) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert sum(tokenizer.token_lengths[i] for i in ids) == len(text.encode())
    assert tokenizer._fast is not None
    assert tokenizer.encode_batch([text])[0].tolist() == ids
    assert min(ids, default=6) >= len(SPECIAL), "no text becomes a special token"
    assert [tokenizer.decode([i]) for i in ids if i < 16] == _marks_in(text)


def _marks_in(text: str) -> list[str]:
    """Read from the left, character by character."""
    found, place = [], 0
    while place < len(text):
        mark = next((mark for mark in MARKS if text.startswith(mark, place)), None)
        found += [mark] if mark else []
        place += len(mark) if mark else 1
    return found


def test_the_text_between_marks_is_encoded_as_if_it_stood_alone(plain: Tokenizer) -> None:
    verse = plain.marks["<verse>"]
    assert plain.encode("In<verse>Genesis 1:1 <verse><eos>") == [
        *plain.encode("In"), verse, *plain.encode("Genesis 1:1 "), verse, *plain.encode("<eos>"),
    ]  # fmt: skip


def test_merges_are_not_spent_on_marks(plain: Tokenizer) -> None:
    without = Tokenizer.train(map("".join, map(between_marks, VERSES)), TokenizerConfig(vocab_size=1000))
    assert any(b"erse" in token for token in Tokenizer.train(VERSES, TokenizerConfig(vocab_size=1000))._token_bytes)
    assert not any(b"erse" in token for token in plain._token_bytes[16:] + without._token_bytes)


def test_equal_texts_give_equal_files() -> None:
    config = TokenizerConfig(vocab_size=1300, layout="structural", seeds=True)
    assert Tokenizer.train(VERSES, config).content == Tokenizer.train(iter(VERSES), config).content


@pytest.mark.parametrize("layout", ["structural", "code"])
def test_each_seed_is_one_token_where_it_stands_as_a_word(seeded: Tokenizer, layout: str) -> None:
    config = TokenizerConfig(vocab_size=1300, layout=layout, seeds=True)
    tokenizer = seeded if layout == "structural" else Tokenizer.train(VERSES, config)
    words = seed_words()
    assert 140 < len(words) == len(set(words)) < 200
    for word in words:
        assert len(tokenizer.encode(word)) == len(tokenizer.encode(" " + word)) == 1
        ids = tokenizer.encode(f"x {word}; {word}'s\n{word}")
        assert [tokenizer.decode([i]) for i in ids].count(word) == 1, "at the start of a line"
        assert [tokenizer.decode([i]) for i in ids].count(" " + word) == 2, "after a space"
    assert [seeded.decode([i]) for i in seeded.encode("<verse>Genesis")] == ["<verse>", "Genesis"]


def _shared_merges(one: Tokenizer, other: Tokenizer) -> int:
    """How many merges at the head of both lists are the same."""
    both = zip(*(json.loads(each.content)["model"]["merges"] for each in (one, other)), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both))


@pytest.fixture(scope="module")
def free() -> Tokenizer:
    """Without seeds and without a bound: all merges that the text supports."""
    return Tokenizer.train(VERSES, TokenizerConfig(vocab_size=30000, layout="structural"))


def test_seeds_stay_within_the_bound_and_leave_the_trained_merges_alone(free: Tokenizer, seeded: Tokenizer) -> None:
    large = Tokenizer.train(VERSES, TokenizerConfig(vocab_size=30000, layout="structural", seeds=True))
    assert _shared_merges(large, free) == free.merges, "with room for both nothing is given up"
    assert large.vocab_size > 1100 == seeded.vocab_size, "without it, no more than is needed"
    assert 0 < _shared_merges(seeded, free) < free.merges


WORDS = [
    *seed_words(),
    "every",
    "since",
    "sinner",
    "lovingkindness",
    "Godhead",
    "godly",
    "Eveline",
    "Johnson",
    "Lordship",
]


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map("".join), st.sampled_from(["", " ", "("]))
@settings(max_examples=300, deadline=None)
def test_no_word_around_a_seed_is_cut_where_it_was_not(
    plain_twin: Tokenizer, seeded: Tokenizer, word: str, before: str
) -> None:
    def cuts(tokenizer: Tokenizer) -> set[int]:
        return set(accumulate(int(tokenizer.token_lengths[i]) for i in tokenizer.encode(before + word)))

    assert cuts(seeded) <= cuts(plain_twin)


@pytest.fixture(scope="module")
def plain_twin(free: Tokenizer, seeded: Tokenizer) -> Tokenizer:
    """The trained merges of `seeded` alone, from a shorter training without seeds."""
    size = 272 + _shared_merges(seeded, free)
    return Tokenizer.train(VERSES, TokenizerConfig(vocab_size=size, layout="structural"))


def test_what_has_no_room_is_refused() -> None:
    with pytest.raises(ValidationError, match="structural needs 272"):
        TokenizerConfig(vocab_size=271, layout="structural")
    with pytest.raises(ValueError, match="no room for the seed words"):
        Tokenizer.train(VERSES, TokenizerConfig(vocab_size=500, seeds=True))


@pytest.mark.parametrize(
    "change",
    [{"content": "<pad"}, {"content": ">x"}, {"content": "ad"}, {"single_word": True}, {"lstrip": True}],
    ids=str,
)
def test_the_fast_path_declines_marks_that_it_might_find_elsewhere(plain: Tokenizer, change: dict[str, object]) -> None:
    content = json.loads(plain.content)
    assert bulk.fast_encoding(content) is not None
    content["added_tokens"][-1] |= change
    assert bulk.fast_encoding(content) is None


def test_the_cache_keeps_the_names_of_other_tokenizers(tmp_path: Path) -> None:
    """A tokenizer trained by an earlier version is found again; one with another layout or with seeds is its own."""
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"the ape is the ape {number} of the sea\n" * 9)
    data = TextConfig(paths=(str(tmp_path),), held_out=0.5)

    def cached(**options: object) -> str:
        before = set(tmp_path.glob("*/*.tokenizer.json"))
        prepare(data, TokenizerConfig(vocab_size=1300, **options), tmp_path / "cache")
        [path] = set(tmp_path.glob("*/*.tokenizer.json")) - before
        return path.name.partition(".")[0]

    digest = scan(data.paths, None, 0.5, set()).digest
    fields = {"path": None, "vocab_size": 1300, "min_frequency": 2, "sample_bytes": 16 << 20}
    assert cached() == xxh3_128_hexdigest(repr(([digest], (1.0,), fields, PATTERN)).encode())
    assert cached(layout="structural") != cached(seeds=True) != cached(layout="structural", seeds=True)
