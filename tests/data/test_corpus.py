"""The corpus: duplicates out, the two sides disjoint, whatever else the corpus holds."""

from pathlib import Path

import numpy as np
import pytest

from eco.data.corpus import Corpus, scan
from eco.data.split import split


def corpus_of(folder: Path, texts: list[str], share: float = 0.2, seen: set[bytes] | None = None) -> Corpus:
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number:04}.txt").write_text(text, encoding="utf-8")
    return scan((str(folder),), None, share, set() if seen is None else seen)


def sides(corpus: Corpus) -> tuple[set[str], set[str]]:
    pairs = list(corpus.documents())
    return {text for text, held in pairs if not held}, {text for text, held in pairs if held}


def test_duplicates_are_removed_and_counted(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, ["a", "b", "a", "c", "b", "a"])
    assert [text for text, _ in corpus.documents()] == ["a", "b", "c"]
    assert corpus.duplicates == 3
    again = scan((str(tmp_path), str(tmp_path)), None, 0.2, set())
    assert (len(again.sizes), again.duplicates) == (3, 9)
    assert again.digest == corpus.digest


def test_duplicates_across_corpora_stay_with_the_first(tmp_path: Path) -> None:
    seen: set[bytes] = set()
    corpus_of(tmp_path / "one", ["a", "b"], seen=seen)
    second = corpus_of(tmp_path / "two", ["c", "b", "d"], seen=seen)
    assert [text for text, _ in second.documents()] == ["c", "d"]
    with pytest.raises(ValueError, match=r"empty corpus.*2 duplicate"):
        scan((str(tmp_path / "one"),), None, 0.2, seen)


def test_the_split_is_disjoint_and_does_not_depend_on_other_documents(tmp_path: Path) -> None:
    texts = [f"document {i}" for i in range(400)]
    training, held_out = sides(corpus_of(tmp_path / "all", texts))
    assert training | held_out == set(texts) and not training & held_out
    assert 50 < len(held_out) < 110  # 80 expected, 8 standard deviation
    some_training, some_held_out = sides(corpus_of(tmp_path / "some", [*texts[399:100:-1], "another"]))
    assert some_training - {"another"} <= training
    assert some_held_out - {"another"} <= held_out


@pytest.mark.parametrize("share", [1e-9, 0.999999])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_neither_side_is_empty(tmp_path: Path, count: int, share: float) -> None:
    training, held_out = sides(corpus_of(tmp_path, [f"{i}" for i in range(count)], share))
    assert training and held_out


def test_few_documents_of_unlike_size_keep_the_share(tmp_path: Path) -> None:
    for number in range(20):  # whatever their hashes
        texts = [f"large {number} " * 500, f"fitting {number} " * 30, f"small {number}"]
        corpus = corpus_of(tmp_path / str(number), texts, share=0.05)
        held_out = int(corpus.sizes[corpus.held_out].sum())
        assert 0 < held_out < 0.525 * corpus.sizes.sum()
    assert sides(corpus_of(tmp_path / "x", ["a" * 1000, "b" * 50, "c"], share=0.001))[1] == {"c"}


def test_a_lone_document_is_split_at_a_line_break(tmp_path: Path) -> None:
    text = "".join(f"line {i}\n" for i in range(100))
    corpus = corpus_of(tmp_path, [text], share=0.1)
    (training, first), (held_out, second) = corpus.documents()
    assert (first, second) == (False, True)
    assert training + held_out == text and training.endswith("\n")
    assert 0.05 < len(held_out) / len(text) < 0.15
    assert corpus_of(tmp_path, [text], share=0.5).digest != corpus.digest


@pytest.mark.parametrize("text", ["ab", "abcdef", "\n\n", "a\nb", "abc\n", "\nabc"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_lone_document_always_has_two_parts(text: str, share: float) -> None:
    training, held_out = split(text, share)
    assert training and held_out and training + held_out == text


def test_an_empty_corpus_says_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\0")
    (tmp_path / "b.txt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty corpus: no text in .*1 binary, 1 empty"):
        scan((str(tmp_path),), None, 0.1, set())


def test_the_digest_names_content_order_and_split(tmp_path: Path) -> None:
    texts = [f"{i}" for i in range(20)]
    digest = corpus_of(tmp_path / "a", texts).digest
    assert corpus_of(tmp_path / "b", texts).digest == digest, "the place does not matter"
    assert corpus_of(tmp_path / "c", texts[::-1]).digest != digest
    assert corpus_of(tmp_path / "d", texts, share=0.6).digest != digest


def test_a_change_between_the_passes_is_an_error(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, ["a", "b", "c"])
    (tmp_path / "0001.txt").write_text("changed")
    with pytest.raises(ValueError, match="changed"):
        list(corpus.documents())


def test_the_training_sample_is_of_the_training_side_and_of_the_given_size(tmp_path: Path) -> None:
    texts = [f"{i:04} ☃" * 10 for i in range(200)]
    corpus = corpus_of(tmp_path, texts)
    training, _ = sides(corpus)
    sample = list(corpus.training_sample(3000))
    assert sample == list(corpus.training_sample(3000))
    assert 2990 <= sum(len(text.encode()) for text in sample) <= 3000
    assert sum(text not in training for text in sample) <= 1, "only the last may be cut"
    assert all(any(whole.startswith(text) for whole in training) for text in sample)
    assert set(corpus.training_sample(10**9)) == training
    assert np.mean([int(text[:4]) for text in sample]) > 40, "not just the first documents"


def test_a_source_is_named_before_a_colon(tmp_path: Path) -> None:
    (tmp_path / "odd:name.txt").write_text("a colon in a name is just a name")
    corpus = scan(("stdlib:", str(tmp_path / "odd:name.txt")), None, 0.1, set())
    assert len(corpus.sizes) > 500
