"""A scripture small enough to read, and where the real one is."""

import os
from pathlib import Path

import pytest

from eco.data.library.marks import Verse, marked

KJV = Path(os.environ.get("ECO_DATA", Path(__file__).parents[4] / "shared" / "data")) / "kjv"

Scripture = dict[str, list[Verse]]


@pytest.fixture(scope="session")
def kjv() -> Path:
    if not KJV.is_dir():
        pytest.skip(f"no {KJV}")
    return KJV


@pytest.fixture
def scripture() -> Scripture:
    """Four books of 3 to 24 chapters of 6 to 12 verses; no two verses are alike."""
    chapters = {"First": 24, "Second": 12, "Third": 6, "Fourth": 3}
    return {
        book: [
            Verse(book, chapter, verse, f"And {book} spake word {chapter * 31 + verse} of {'many ' * (verse % 5)}days.")
            for chapter in range(1, count + 1)
            for verse in range(1, 7 + chapter % 6)
        ]
        for book, count in chapters.items()
    }


@pytest.fixture
def texts(tmp_path: Path, scripture: Scripture) -> Path:
    """The scripture as marked documents in two sub-folders, each with metadata of its own."""
    for number, (book, verses) in enumerate(scripture.items()):
        folder = tmp_path / "texts" / ("old" if number < 2 else "new")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.txt").write_text(marked(book, verses, {2: "law"}), encoding="utf-8")
        (folder / f"{number}.json").write_text(f'{{"title": "{book}", "quality_score": {6 + number}}}')
    return tmp_path / "texts"
