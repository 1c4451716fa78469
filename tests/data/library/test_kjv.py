"""The King James Version: every verse comes back, the tables name what exists, a download is what it must be."""

import hashlib
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from eco import plugins
from eco.cli import main
from eco.data.library.build import build
from eco.data.library.folder import Library
from eco.data.library.marks import KINDS, Verse, verses_of
from eco.data.library.recipes import kjv as recipe


@pytest.fixture(scope="module")
def built(kjv: Path, tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build(tmp_path_factory.mktemp("kjv") / "library", "kjv", str(kjv))[0]


def test_every_verse_comes_back(built: Library, kjv: Path) -> None:
    verses = [verse for item in built.items for verse in verses_of(built.read(item).text)]
    assert len(verses) == 31102
    assert [verse.text for verse in verses] == (kjv / "kjv.txt").read_text().splitlines()
    references = [f"{verse.book} {verse.chapter} {verse.verse}".lower() for verse in verses]
    assert references == (kjv / "kjv-refs.txt").read_text().splitlines()


def test_the_books_and_their_genres(built: Library) -> None:
    assert len(built.items) == 66 and sum(item.units for item in built.items) == 1189
    titles = [item.title for item in built.items]
    assert titles[0] == "Genesis" and titles[21] == "Song of Solomon" and titles[8] == "1 Samuel"
    assert built.categories == (
        *("law", "history", "wisdom", "major prophets", "minor prophets", "gospels", "epistles", "apocalyptic"),
    )
    counts = [sum(item.category == category for item in built.items) for category in built.categories]
    assert counts == [5, 12, 5, 5, 12, 5, 21, 1]
    about = {item.title: built.read(item).metadata for item in built.items}
    assert about["Acts"].category == "gospels"
    assert {metadata.biblical_alignment for metadata in about.values()} == {10.0}
    assert {metadata.license for metadata in about.values()} == {"public domain (outside the United Kingdom)"}
    by_quality = sorted(titles, key=lambda title: about[title].quality_score)
    assert by_quality[0] == "1 Chronicles", "nine chapters of genealogy"
    assert about["1 Chronicles"].quality_score < 8 < 9.9 < about["Proverbs"].quality_score


def test_a_list_of_names_is_not_running_prose() -> None:
    names, prose = "And Pathrusim, and Casluhim, (Caphtorim), Noah", "And the earth was without form, and God moved on"
    assert recipe.prose_share([names]) == 0 and recipe.prose_share([prose]) == 1
    assert recipe.prose_share([names, prose]) == 10 / 16


def test_the_kinds_name_chapters_that_exist(built: Library) -> None:
    chapters = {item.title: item.units for item in built.items}
    kinds = recipe.chapter_kinds()
    assert set(kinds.values()) == set(KINDS)
    for told in (told for ranges in recipe.ABOUT["kinds"].values() for told in ranges):
        book = told if told in chapters else told.rsplit(" ", 1)[0]
        last = int(told[len(book) :].rpartition("-")[2] or 1)
        assert 1 <= last <= chapters[book], told
    named = [told for ranges in recipe.ABOUT["kinds"].values() for told in ranges]
    assert len(named) == len(set(named))
    psalms = built.read(built.items[18]).text
    assert psalms.count(" <psalm>\n") == 150 and "<chapter>Psalms 23 <psalm>\n" in psalms
    assert "<chapter>Genesis 5 <genealogy>\n" in built.read(built.items[0]).text


def test_no_chapter_has_two_kinds() -> None:
    ranges = recipe.ABOUT["kinds"]
    alone = []
    for kind in ranges:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(recipe.ABOUT, "kinds", {kind: ranges[kind]})
            alone += [*recipe.chapter_kinds()]
    assert len(alone) == len(set(alone))


def test_its_folder_has_a_name(kjv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "build-corpus", "--source", str(kjv / "kjv.txt"), "--recipe", "kjv"]) == 0
    assert (tmp_path / "mvlm_training_dataset_complete" / "066_revelation.txt").is_file()


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bible of two books and six verses, with its digests in the recipe's table."""
    genres = [{"category": "law", "priority": "high", "books": ["Genesis", "Song of Solomon"]}]
    (tmp_path / "source").mkdir()
    verses, references = "One.\nTwo.\nThree.\nFour.\nFive.\nSix.\n", "genesis 1 1,genesis 1 2,genesis 2 1,genesis 3 1"
    references = "\n".join([*references.split(","), "song of solomon 1 1", "song of solomon 1 2", ""])
    (tmp_path / "source" / "kjv.txt").write_text(verses)
    (tmp_path / "source" / "kjv-refs.txt").write_text(references)
    digests = {"verses": verses, "references": references}
    monkeypatch.setitem(recipe.ABOUT, "verses", 6)
    monkeypatch.setitem(recipe.ABOUT, "genres", genres)
    sha256 = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in digests.items()}
    monkeypatch.setitem(recipe.ABOUT, "sha256", sha256)
    return tmp_path / "source"


@pytest.fixture
def server(small: Path) -> Iterator[str]:
    """Serves the small source; `/cut/` breaks off in the middle."""

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/cut/"):
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"In the beginning")
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    serving = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(small)))
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    serving.server_close()


def test_a_download_gives_the_same_as_a_folder(small: Path, server: str, tmp_path: Path) -> None:
    local, _ = build(tmp_path / "local", "kjv", str(small))
    sources = [server, f"{server}/kjv.txt", small.as_uri(), f"{small.as_uri()}/kjv.txt", str(small / "kjv.txt")]
    for number, source in enumerate(sources):
        assert build(tmp_path / f"{number}", "kjv", source)[0].digest == local.digest
    assert list(verses_of(local.read(local.items[1]).text)) == [
        Verse("Song of Solomon", 1, 1, "Five."),
        Verse("Song of Solomon", 1, 2, "Six."),
    ]


def test_a_bad_download_is_refused_by_name(small: Path, server: str, tmp_path: Path) -> None:
    (small / "other").mkdir()
    (small / "other" / "kjv.txt").write_text("Another edition.\n")
    expected = {
        f"{server}/cut": r"/cut/kjv\.txt cannot be downloaded",
        f"{server}/nothing": r"nothing/kjv\.txt cannot be downloaded .*404",
        f"{server}/other": r"other/kjv\.txt has 17 bytes of SHA-256 .*another edition",
        "http://127.0.0.1:1": r"127\.0\.0\.1:1/kjv\.txt cannot be downloaded .*refused.*local folder",
        (tmp_path / "nowhere").as_uri(): "cannot be downloaded",
        "ftp://127.0.0.1": "an address begins with http, https, file",
        str(tmp_path / "nowhere"): r"nowhere/kjv\.txt cannot be read: No such file",
    }
    for source, message in expected.items():
        with pytest.raises(ValueError, match=message):
            build(tmp_path / "library", "kjv", source)
    assert not (tmp_path / "library").exists()


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("kjv.txt", "Six.\n", "", r"kjv\.txt has 5 lines, not 6"),
        ("kjv.txt", "Two.", "", r"kjv\.txt, line 2: no verse, but .* names 'genesis 1 2'"),
        ("kjv-refs.txt", "genesis 2 1", "genesis 2 2", r"refs\.txt, line 3: 'genesis 2 2', where 'genesis 1 3' or"),
        ("kjv-refs.txt", "song of solomon 1 1", "canticles 1 1", r"line 5: 'canticles 1 1', where .* 'song of solomon"),
        ("kjv-refs.txt", "song of solomon 1 1\nsong of solomon 1 2", "genesis 3 2\ngenesis 3 3", "ends with Genesis"),
    ],
)
def test_a_local_file_that_does_not_fit_is_named(
    small: Path, tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    path = small / name
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "library", "kjv", str(small))


def test_a_recipe_is_one_file() -> None:
    assert plugins.names("data.library.recipes") == ["files", "kjv"]


def test_two_builds_are_equal_to_the_byte_and_another_source_is_not(small: Path, tmp_path: Path) -> None:
    one, two = (build(tmp_path / name, "kjv", str(small))[0] for name in ("one", "two"))
    assert [path.read_bytes() for path in sorted(one.folder.iterdir())] == [
        path.read_bytes() for path in sorted(two.folder.iterdir())
    ]
    shutil.copytree(small, tmp_path / "edition")
    (tmp_path / "edition" / "kjv.txt").write_text("A.\nB.\nC.\nD.\nE.\nF.\n")
    assert build(tmp_path / "three", "kjv", str(tmp_path / "edition"))[0].digest != one.digest
