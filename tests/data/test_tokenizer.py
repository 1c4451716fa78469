"""The tokenizer: lossless, deterministic, and the fast path equal to the library's."""

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from eco.data import bulk
from eco.data.pieces import BYTE_TO_CHARACTER
from eco.data.tokenizer import SPECIAL_TOKENS, Tokenizer, TokenizerConfig

# Text of any characters but lone surrogates, mixed with what code is made of.
CODE = st.sampled_from(
    ["\t", "    ", "\r\n", "\n\n    ", "  ", "self", "__init__", "x1", "12345", "'''", "→", "👩\u200d💻", "é", "\ufeff"]
)
TEXT = st.lists(st.one_of(CODE, st.text(st.characters(exclude_categories=["Cs"]), max_size=8))).map("".join)


@given(TEXT)
@settings(max_examples=300, deadline=None)
def test_any_text_round_trips_and_both_paths_agree(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.encode_batch([text])[0].tolist() == ids


def test_every_code_point_is_cut_alike_by_both_engines(tokenizer: Tokenizer) -> None:
    points = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    assert len({unicodedata.category(point) for point in points}) == 29  # all categories but Cs
    runs = ["".join(points[i : i + 500]) for i in range(0, len(points), 500)]
    mixed = [between.join(points[i : i + 100]) for i in range(0, 0x3000, 100) for between in ("a", " ", "1 \n")]
    texts = runs + mixed
    for text, fast in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert fast.tolist() == tokenizer.encode(text)
        assert tokenizer.decode(fast.tolist()) == text


def test_the_standard_library_has_equal_ids_on_any_number_of_threads(tokenizer: Tokenizer, library: list[str]) -> None:
    assert tokenizer._fast is not None
    library = library[1::3]
    one, three = tokenizer.encode_batch(library, threads=1), tokenizer.encode_batch(library, threads=3)
    slow = tokenizer._tokenizer.encode_batch_fast(library, add_special_tokens=False)
    for text, a, b, expected in zip(library, one, three, slow, strict=True):
        assert a.tolist() == b.tolist() == expected.ids
        assert tokenizer.decode(a.tolist()) == text


def test_special_tokens_come_first_and_never_from_text(tokenizer: Tokenizer) -> None:
    assert [tokenizer._tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(7))
    assert (tokenizer.eos, tokenizer.pad) == (0, 1)
    for token in SPECIAL_TOKENS:
        ids = tokenizer.encode(f"a {token} b")
        assert min(ids) >= len(SPECIAL_TOKENS)
        assert tokenizer.encode_batch([f"a {token} b"])[0].tolist() == ids
    assert tokenizer.decode([tokenizer.eos, *tokenizer.encode("x"), tokenizer.eos]) == "x"
    assert tokenizer.token_lengths[:7].tolist() == [0] * 7


def test_a_prompt_ends_with_its_own_last_token(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("") == []
    prompt, whole = tokenizer.encode("def f(x):"), tokenizer.encode("def f(x):\n    return x")
    assert whole[: len(prompt)] == prompt, "the line break must stand apart from the colon"


def test_indentation_and_digits_are_units(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("\n        ")) == 1
    assert len(tokenizer.encode("    ")) == 1
    year = Tokenizer.train(["2024 2024 2025 20252"] * 9, TokenizerConfig())
    assert [year.decode([i]) for i in year.encode("20242")] == ["202", "4", "2"], "no token holds four digits"


def test_training_is_deterministic_across_processes(tmp_path: Path) -> None:
    program = (
        "import sys; from eco.data.tokenizer import *\n"
        "texts = [f'def f{i}(self, key): return self.k{i % 7} + {i * i}' for i in range(500)]\n"
        "print(Tokenizer.train(texts, TokenizerConfig(vocab_size=600)).digest)"
    )
    digests = {subprocess.check_output([sys.executable, "-c", program], cwd=Path.cwd()) for _ in range(2)}
    assert len(digests) == 1


def test_a_small_corpus_gets_a_small_vocabulary() -> None:
    small = Tokenizer.train(["abab"], TokenizerConfig(vocab_size=5000))
    assert 263 < small.vocab_size < 270
    assert small.decode(small.encode("zebra ☃")) == "zebra ☃"


def test_bytes_that_are_no_text(tokenizer: Tokenizer) -> None:
    first = tokenizer.encode("☃")[:1] if len(tokenizer.encode("☃")) > 1 else [tokenizer.encode("\xff")[0]]
    assert tokenizer.decode(first) == "\ufffd"
    assert tokenizer.decode_bytes(first) in ("☃".encode()[:1], "☃".encode()[:2], "\xff".encode()[:1])
    with pytest.raises(IndexError, match="-100"):
        tokenizer.decode([5, -100])
    with pytest.raises(ValueError, match="surrogate"):
        tokenizer.encode("a\ud800b")
    with pytest.raises(ValueError, match="surrogate"):
        tokenizer.encode_batch(["a\ud800b"])


def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.digest == tokenizer.digest and loaded.vocab_size == tokenizer.vocab_size
    assert loaded.encode("import os") == tokenizer.encode("import os")
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert library.encode("import os").ids == tokenizer.encode("import os"), "nothing is added around a prompt"


@pytest.mark.parametrize("content", ["", "{}", "not json"])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"broken\.json"):
        Tokenizer.load(path)
    with pytest.raises(ValueError, match=r"missing\.json"):
        Tokenizer.load(tmp_path / "missing.json")


def test_what_is_not_byte_level_is_refused(tokenizer: Tokenizer) -> None:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<|endoftext|>": 0, "a": 1}, unk_token="a"))
    with pytest.raises(ValueError, match="byte-level"):
        Tokenizer(words.to_str())
    content = json.loads(tokenizer.content)
    content["model"]["vocab"]["日"] = len(content["model"]["vocab"])
    with pytest.raises(ValueError, match="日"):
        Tokenizer(json.dumps(content))


def test_what_changes_texts_is_refused(tokenizer: Tokenizer) -> None:
    content = json.loads(tokenizer.content)
    prefix = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    changed = [{"normalizer": {"type": "NFC"}}, {"normalizer": {"type": "Lowercase"}}, {"pre_tokenizer": prefix}]
    for change in changed:
        with pytest.raises(ValueError, match="changes texts"):
            Tokenizer(json.dumps(content | change))
    content["model"]["vocab"] = dict.fromkeys([*SPECIAL_TOKENS, *BYTE_TO_CHARACTER[1:]])
    content["model"] |= {"merges": [], "vocab": {token: i for i, token in enumerate(content["model"]["vocab"])}}
    with pytest.raises(ValueError, match="lacks some bytes"):
        Tokenizer(json.dumps(content))


# Trained files never look like these; given ones may. "abc" ends as [a, bc] in the first, where `tiktoken` would go on.
FOREIGN = {
    "halves not reached": [("b", "c"), ("a", "b"), ("ab", "c")],
    "two merges to one token": [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")],
}


@pytest.mark.parametrize("merges", FOREIGN.values(), ids=FOREIGN)
def test_the_fast_path_declines_what_it_cannot_copy(merges: list[tuple[str, str]]) -> None:
    tokens = dict.fromkeys([*BYTE_TO_CHARACTER, *(left + right for left, right in merges)])
    base = json.loads(Tokenizer.train(["x"], TokenizerConfig(min_frequency=9)).content)
    base["model"]["vocab"] = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *tokens])}
    base["model"]["merges"] = [list(merge) for merge in merges]
    foreign = Tokenizer(json.dumps(base))
    assert foreign._fast is None
    for text in ("abc", "aabcc", "bcabc"):
        assert foreign.encode_batch([text])[0].tolist() == foreign.encode(text)
        assert foreign.decode(foreign.encode(text)) == text


def test_another_pattern_or_a_normalizer_goes_the_slow_way(tokenizer: Tokenizer) -> None:
    content = json.loads(tokenizer.content)
    assert bulk.fast_encoding(content) is not None
    assert bulk.fast_encoding({**content, "normalizer": {"type": "NFC"}}) is None
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    other = Tokenizer(json.dumps({**content, "pre_tokenizer": split}))
    assert other._fast is None
    assert other.encode_batch(["a b  c"])[0].dtype == np.uint32
    assert other.encode_batch(["a b  c"])[0].tolist() == other.encode("a b  c")
