"""A library: built the same each time, whole or not at all, refused where anything was changed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from eco.cli import main
from eco.data.library import build as building
from eco.data.library.build import build
from eco.data.library.folder import open_library
from eco.data.library.marks import Verse, verses_of
from eco.data.sources import library as source
from eco.data.sources.contract import Document, SourceOptions


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def read(folder: Path) -> list[Document]:
    return list(source.documents(str(folder), SourceOptions()))


def test_two_builds_are_equal_to_the_byte(texts: Path, tmp_path: Path) -> None:
    one, _ = build(tmp_path / "one", "files", str(texts))
    two, _ = build(tmp_path / "deep" / "two", "files", str(texts))
    assert bytes_of(one.folder) == bytes_of(two.folder)
    assert one.digest == two.digest and len(one.digest) == 64
    assert sorted(bytes_of(one.folder))[:4] == ["001_third.json", "001_third.txt", "002_fourth.json", "002_fourth.txt"]
    (texts / "old" / "0.txt").write_text("changed")
    assert build(tmp_path / "three", "files", str(texts))[0].digest != one.digest


def test_the_documents_and_what_is_known_of_them(
    texts: Path, tmp_path: Path, scripture: dict[str, list[Verse]]
) -> None:
    (texts / "plain.md").write_text("one two three\n")
    about = {"priority": "high", "category": "essays", "mood": {"calm": True}, "word_count": 1, "hash": "old"}
    (texts / "plain.json").write_text(json.dumps(about))
    built, _ = build(tmp_path / "library", "files", str(texts))
    assert built.categories == ("new", "old", "essays")
    titles = [item.title for item in built.items]
    assert titles == ["Third", "Fourth", "First", "Second", "plain"]
    for item in built.items[:-1]:
        assert list(verses_of(built.read(item).text)) == scripture[item.title]
    told = json.loads((built.folder / "005_plain.json").read_text())
    assert told["mood"] == {"calm": True} and told["source"] == "plain.md"
    assert (told["word_count"], told["quality_score"], told["biblical_alignment"]) == (3, 8.0, 7.0)
    assert built.read(built.items[-1]).metadata.model_extra == {"mood": {"calm": True}}
    assert told["hash"] == built.items[-1].text_sha256 and told["filepath"] == "005_plain.txt"
    again, _ = build(tmp_path / "again", "files", str(built.folder))
    assert [item.text_sha256 for item in again.items] == [item.text_sha256 for item in built.items]


def test_the_source_gives_units_with_their_facts(texts: Path, tmp_path: Path) -> None:
    (texts / "plain.md").write_text("one two three\n")
    build(tmp_path / "library", "files", str(texts))
    documents = read(tmp_path / "library")
    assert len(documents) == 24 + 12 + 6 + 3 + 1
    assert len({document.text for document in documents}) == len(documents)
    first = [document for document in documents if document.facts["document"] == 2]
    assert [document.facts["place"] for document in first] == [number / 24 for number in range(24)]
    assert {document.stratum for document in first} == {"003_first"}
    expected = {"document": 2.0, "category": 1.0, "quality": 6.0, "alignment": 7.0, "priority": 0.6, "place": 0.0}
    assert first[0].facts == expected and first[0].text.startswith("<book>First\n<chapter>First 1\n")
    assert first[1].text.startswith("<chapter>First 2 <law>\n")
    assert documents[-1].stratum == "general" and documents[-1].facts["place"] == 0.0


def test_a_library_that_is_there_is_left_or_refused(texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    built, written = build(folder, "files", str(texts))
    before = (folder / "corpus.json").stat().st_mtime_ns
    assert written and build(folder, "files", str(texts)) == (built, False)
    assert (folder / "corpus.json").stat().st_mtime_ns == before
    (texts / "old" / "1.txt").write_text("another")
    with pytest.raises(ValueError, match=r"holds another library .*--force"):
        build(folder, "files", str(texts))
    replaced, written = build(folder, "files", str(texts), force=True)
    assert written and replaced.digest != built.digest
    (folder / "notes.odt").write_text("mine")
    for force in (False, True):
        with pytest.raises(ValueError, match=r"holds more than a library, such as 'notes\.odt'"):
            build(folder, "files", str(texts), force=force)
    with pytest.raises(ValueError, match="is a file"):
        build(folder / "notes.odt", "files", str(texts))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a byte of a text": (lambda folder: flip(folder / "002_fourth.txt"), r"002_fourth\.txt was changed"),
    "a byte of metadata": (lambda folder: flip(folder / "003_first.json"), r"003_first\.json was changed"),
    "a missing text": (lambda folder: (folder / "001_third.txt").unlink(), r"001_third\.txt cannot be read"),
    "a byte of the manifest": (lambda folder: flip(folder / "corpus.json"), r"corpus\.json was changed"),
    "another manifest": (
        lambda folder: (folder / "corpus.json").write_text("[]") and None,
        r"corpus\.json was changed",
    ),
    "no manifest": (lambda folder: (folder / "corpus.json").unlink(), "is no library"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_was_changed_is_refused_by_name_and_can_be_mended(texts: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "library"
    build(folder, "files", str(texts))
    whole = bytes_of(folder)
    change, message = DAMAGE[damage]
    change(folder)
    for use in (lambda: read(folder), lambda: build(folder, "files", str(texts))):
        with pytest.raises(ValueError, match=rf"{message}.*eco data build-corpus"):
            use()
    build(folder, "files", str(texts), force=True)
    assert bytes_of(folder) == whole


def test_a_failed_build_leaves_what_was_there(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out" / "library"
    build(folder, "files", str(texts))
    before = bytes_of(folder)
    (texts / "old" / "1.txt").write_text("another")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(building, "replacing", full)
        with pytest.raises(ValueError, match="No space left"):
            build(folder, "files", str(texts), force=True)
    assert bytes_of(folder) == before and [path.name for path in folder.parent.iterdir()] == ["library"]


BAD = [
    ('{"quality_score": 11}', r"quality_score: .*less than or equal to 10, not 11"),
    ('{"quality_score": "high"}', r"quality_score: .*number, not 'high'"),
    ('{"biblical_alignment": -1}', r"biblical_alignment: .*greater than or equal to 0"),
    ('{"biblical_alignment": true}', r"biblical_alignment: .*number, not True"),
    ('{"priority": "urgent"}', r"priority: .*'high', 'medium' or 'low', not 'urgent'"),
    ('{"title": ""}', r"title: .*at least 1"),
    ('{"category": 5}', r"category: .*string, not 5"),
    ('{"quality_score": NaN}', r"malformed JSON \(NaN is no JSON\)"),
    ('{"title"', "malformed JSON"),
    ("[1]", "an object is expected"),
    ('{"mood": 1e999}', "malformed JSON"),
    (r'{"mood": "\ud800"}', "malformed JSON"),
    ('{"license": ["MIT"]}', "license: .*string"),
]


@pytest.mark.parametrize(("about", "message"), BAD)
def test_bad_metadata_names_the_file_and_the_key(texts: Path, tmp_path: Path, about: str, message: str) -> None:
    (texts / "old" / "0.json").write_text(about)
    with pytest.raises(ValueError, match=rf"old/0\.json: {message}"):
        build(tmp_path / "library", "files", str(texts))
    assert not (tmp_path / "library").exists()


def test_metadata_that_are_a_folder_are_named(texts: Path, tmp_path: Path) -> None:
    (texts / "old" / "0.json").unlink()
    (texts / "old" / "0.json").mkdir()
    with pytest.raises(ValueError, match=r"old/0\.json cannot be read"):
        build(tmp_path / "library", "files", str(texts))


def test_bad_texts_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    with pytest.raises(ValueError, match=r"--source: no such file or folder"):
        build(tmp_path / "library", "files", str(folder))
    folder.mkdir()
    with pytest.raises(ValueError, match=r"holds no file ending in \.txt or \.md"):
        build(tmp_path / "library", "files", str(folder))
    (folder / "a.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.txt: not UTF-8"):
        build(tmp_path / "library", "files", str(folder))
    (folder / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"a\.txt is empty"):
        build(tmp_path / "library", "files", str(folder))
    with pytest.raises(ValueError, match=r"no 'kjw' .*did you mean 'kjv'"):
        build(tmp_path / "library", "kjw", str(folder))


def test_the_command_says_what_it_did(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["data", "build-corpus", str(tmp_path / "library"), "--source", str(texts)]
    assert main(words) == 0
    said = capsys.readouterr().out
    size = sum(path.stat().st_size for path in (tmp_path / "library").glob("*.txt"))
    assert f"4 documents, 45 units, {size} bytes" in said
    assert "  old: 2 documents, 36 units, 8" in said and open_library(tmp_path / "library").digest in said
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["documents"], told["units"], told["bytes"], told["written"]) == (4, 45, size, False)
    assert told["categories"] == ["new", "old"] and told["items"][0]["title"] == "Third"
    assert main(["data", "build-corpus", "--source", str(texts)]) == 1
    assert "where to?" in capsys.readouterr().err
