"""Sources: what is read, what is counted and left out, and what is refused with its name."""

import gzip
import json
from pathlib import Path

import pytest

from eco import plugins
from eco.data import readers
from eco.data.sources import files, stdlib
from eco.data.sources.contract import SourceOptions


def read(location: Path | str, text_field: str | None = None) -> tuple[list[str], dict[str, int]]:
    options = SourceOptions(text_field)
    return list(files.documents(str(location), options)), dict(options.skipped)


def test_the_room_has_these_sources() -> None:
    assert plugins.names("data.sources") == ["files", "library", "stdlib"]


def test_a_folder_is_read_in_order_with_every_format(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "hidden.py").write_text("hidden")
    (tmp_path / "b.py").write_bytes(b"tab\there\r\n")
    (tmp_path / "sub" / "a.md").write_text("# ☃\n", encoding="utf-8")
    (tmp_path / "c.jsonl").write_text('{"text": "one"}\n\n{"text": "two", "more": 1}\n')
    with gzip.open(tmp_path / "d.jsonl.gz", "wt") as stream:
        stream.write('{"content": "packed"}\n')
    (tmp_path / "notes.doc").write_text("not read")
    texts, skipped = read(tmp_path)
    assert texts == ["tab\there\r\n", "one", "two", "packed", "# ☃\n"]
    assert skipped == {}
    assert read(tmp_path / "**" / "*.md")[0] == ["# ☃\n"]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"code": ["x = 1", None, "y = 2"], "n": [1, 2, 3]}), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet") == (["x = 1", "y = 2"], {"empty": 1})
    with pytest.raises(ValueError, match=r"t\.parquet: no field body among: code, n"):
        read(tmp_path / "t.parquet", "body")
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"t\.parquet: damaged"):
        read(tmp_path / "t.parquet")


def test_parquet_without_its_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.parquet").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'eco-lm\[parquet\]'"):
        read(tmp_path)


def test_bad_files_are_counted_and_skipped(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "binary.py").write_bytes(b"\x7fELF\0\0\0")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "empty.md").write_text("")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    lines = [b'{"text": "caf\xe9"}', b'{"text": "\\ud800"}', b'{"text": "kept"}', b'{"text": null}']
    (tmp_path / "lines.jsonl").write_bytes(b"\n".join(lines))
    texts, skipped = read(tmp_path)
    assert texts == ["good", "kept"]
    assert skipped == {"binary": 1, "undecodable": 3, "empty": 2, "unreadable": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "cut', r"bad\.jsonl, line 2: malformed JSON"),
        ('{"text": "x", "n": ' + "9" * 5000 + "}", r"bad\.jsonl, line 2: malformed JSON"),
        ('["text"]', r"bad\.jsonl, line 2: each line must be an object"),
        ('{"body": "x"}', r"bad\.jsonl, line 2: no field text or content or code among: body; set data\.text_field"),
        ('{"text": 5}', r"bad\.jsonl, line 2: field text must hold text, not int"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_the_text_field_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "no", "body": "yes"}))
    assert read(tmp_path, "body")[0] == ["yes"]
    assert read(tmp_path)[0] == ["no"]


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"text": "' + bytes(range(48, 122)) * 500 + b'"}\n')
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz: damaged gzip"):
        read(tmp_path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such file or folder: '.*nothing"):
        read(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"no file matches '.*\*\.py'"):
        read(tmp_path / "*.py")
    (tmp_path / "a.doc").write_text("x")
    with pytest.raises(ValueError, match=r"holds 1 files, none ending in \.py"):
        read(tmp_path)


def read_one(folder: Path, content: str) -> list[str]:
    (folder / "huge.txt").write_text(content, encoding="utf-8")
    texts, skipped = read(folder)
    assert skipped == {}
    return texts


@pytest.mark.parametrize("content", ["line ☃\n" * 40, "☃" * 60, "x" * 64, "\n" * 70])
def test_a_huge_file_comes_in_pieces_that_join_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(readers, "PIECE", 32)
    assert read_one(tmp_path, content) == [content]
    monkeypatch.setattr(readers, "WHOLE", 48)
    texts = read_one(tmp_path, content)
    assert "".join(texts) == content
    assert len(texts) > 1 and all(len(text.encode()) <= 32 for text in texts)
    if content.startswith("line"):
        assert all(text.endswith("\n") for text in texts)


def test_the_standard_library_is_large_ordered_and_without_tests(library: list[str]) -> None:
    assert sum(map(len, library)) > 5e6
    assert any("class JSONEncoder" in text for text in library)
    assert not any("import unittest\n" in text and "class BaseTestCase" in text for text in library)
    assert list(stdlib.documents("", SourceOptions())) == library
    with pytest.raises(ValueError, match="stdlib:"):
        next(stdlib.documents("json", SourceOptions()))
