"""From a recipe's words to samples."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import ValidationError

from eco.data.prepare import MixEntry, TextConfig, cache_folder, prepare
from eco.data.stream import IGNORE
from eco.data.tokenizer import SPECIAL_TOKENS, Tokenizer, TokenizerConfig

SMALL = TokenizerConfig(vocab_size=500)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for kind in ("code", "prose"):
        (tmp_path / kind).mkdir()
        for number in range(40):
            word = {"code": "self.value", "prose": "snowflakes"}[kind]
            (tmp_path / kind / f"{number:02}.txt").write_text(f"{kind} {number} {word}\n" * 20)
    return tmp_path


def test_one_corpus(folder: Path) -> None:
    said: list[str] = []
    (folder / "code" / "copy.txt").write_text((folder / "code" / "00.txt").read_text())
    data = TextConfig(paths=str(folder / "code"), held_out=0.2)  # type: ignore[arg-type]
    assert data.paths == (str(folder / "code"),), "a single string is one path"
    prepared = prepare(data, SMALL, folder / "cache", said.append)
    report = prepared.report
    assert (report.documents, report.duplicates) == (40, 1)
    assert 0 < report.held_out_documents < 20
    assert report.bytes == sum(len(f"code {number} self.value\n" * 20) for number in range(40))
    assert report.training_tokens == prepared.stream(16).targets
    assert report.bytes_per_token > 1.5
    assert "1 duplicate" in "\n".join(said)
    batch = prepared.stream(16).batch(0, 4)
    assert "self.value" in prepared.tokenizer.decode(batch["tokens"].flatten().tolist())


def test_a_source_may_be_named_in_front_of_a_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    named, bare = TextConfig(paths=("files:code",)), TextConfig(paths=("code",))
    assert named.paths == bare.paths == (str(folder / "code"),)
    assert TextConfig(paths=("stdlib:",)).paths == ("stdlib:",)
    assert TextConfig(paths=("library:code",)).paths == (f"library:{folder / 'code'}",)


def test_again_is_equal_and_builds_nothing(folder: Path) -> None:
    data = TextConfig(paths=(str(folder / "code"),))
    first, said = prepare(data, SMALL, folder / "cache"), []  # type: ignore[var-annotated]
    second = prepare(data, SMALL, folder / "cache", said.append)
    assert first.report == second.report
    assert not any("training" in line.split()[0] or "encoding" in line for line in said)
    assert first.stream(8).batch(3, 5)["tokens"].equal(second.stream(8).batch(3, 5)["tokens"])
    other = prepare(data.model_copy(update={"seed": 1}), SMALL, folder / "cache")
    assert not first.stream(8).batch(3, 5)["tokens"].equal(other.stream(8).batch(3, 5)["tokens"])
    assert other.stores[0].folder == first.stores[0].folder, "the seed changes the order, not the store or the split"


def test_the_tokenizer_sees_the_training_side_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    train = Tokenizer.train

    def spy(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
        seen.extend(texts)
        return train(seen, config)

    monkeypatch.setattr(Tokenizer, "train", spy)
    prepared = prepare(TextConfig(paths=(str(folder / "code"),), held_out=0.5), SMALL, folder / "cache")
    sides = [
        [prepared.tokenizer.decode(part.tokens[start:end].tolist()) for start, end in pairwise(part.documents.tolist())]
        for part in (prepared.stores[0].training, prepared.stores[0].held_out)
    ]
    assert sorted(seen) == sorted(sides[0])
    assert sides[1] and not set(seen) & set(sides[1])


def test_a_mixture(folder: Path) -> None:
    mix = (MixEntry(paths=str(folder / "code"), weight=3), MixEntry(paths=(str(folder / "prose"),)))  # type: ignore[arg-type]
    prepared = prepare(TextConfig(mix=mix), SMALL, folder / "cache")
    targets = prepared.stream(16).batch(0, 400)["targets"]
    texts = [prepared.tokenizer.decode(row[row != IGNORE].tolist()) for row in targets]
    prose = sum("prose" in text or "snow" in text for text in texts)
    assert 95 <= prose <= 105
    assert len(prepared.held_out(16)) == 2
    with pytest.raises(ValidationError, match="both given"):
        TextConfig(paths=("a",), mix=mix)


def test_a_given_tokenizer_is_used_as_it_is(folder: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(folder / "given.json")
    config = TokenizerConfig(path=str(folder / "given.json"))
    prepared = prepare(TextConfig(paths=(str(folder / "code"),)), config, folder / "cache")
    assert prepared.tokenizer.digest == tokenizer.digest
    assert prepared.report.wanted_vocab_size is None


def test_a_vocabulary_that_cannot_be_filled_is_reported(folder: Path) -> None:
    said: list[str] = []
    config = TokenizerConfig(vocab_size=30000)
    prepared = prepare(TextConfig(paths=(str(folder / "code"),)), config, folder / "cache", said.append)
    assert prepared.tokenizer.vocab_size < 1000
    merges = prepared.tokenizer.vocab_size - 256 - len(SPECIAL_TOKENS)
    assert any(f"supports {merges} merges" in line and "of 30000 tokens" in line for line in said)


def test_a_damaged_cached_tokenizer_is_trained_again(folder: Path) -> None:
    data = TextConfig(paths=(str(folder / "code"),))
    first = prepare(data, SMALL, folder / "cache")
    [cached] = (folder / "cache").glob("*.tokenizer.json")
    cached.write_text("{")
    assert prepare(data, SMALL, folder / "cache").tokenizer.digest == first.tokenizer.digest


def test_no_paths_is_the_standard_library(tmp_path: Path) -> None:
    assert TextConfig().entries() == (MixEntry(paths=("stdlib:",)),)


def test_relative_paths_start_at_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ECO_CACHE", str(folder / "elsewhere"))
    assert cache_folder() == folder / "elsewhere"
    assert prepare(TextConfig(paths=("code",)), SMALL).stores[0].folder.parent == folder / "elsewhere"


def test_errors_name_what_is_wrong(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no such file or folder: '.*nowhere'"):
        prepare(TextConfig(paths=("nowhere",)), SMALL, folder / "cache")
    with pytest.raises(ValueError, match=r"nowhere\.json"):
        prepare(TextConfig(paths=(str(folder / "code"),)), TokenizerConfig(path="nowhere.json"), folder / "cache")
    (folder / "file").write_text("")
    with pytest.raises(ValueError, match="ECO_CACHE"):
        prepare(TextConfig(paths=(str(folder / "code"),)), SMALL, folder / "file" / "cache")
