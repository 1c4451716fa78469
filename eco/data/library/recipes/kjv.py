"""The King James Version: 66 books with their structure marked, from 31,102 verses and as many references.

`kjv.toml` has the books, their genres and the known kinds of chapters. Verses lie one a line in `NAME.txt`, references
("genesis 1 1") in `NAME-refs.txt`; the source is the former or the folder of `kjv.txt`, as a path or an address.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from eco.data.library.fetch import fetch, is_address
from eco.data.library.marks import Verse, marked
from eco.data.library.metadata import Metadata
from eco.data.library.recipes.contract import Collection, Entry

FOLDER = "mvlm_training_dataset_complete"

ABOUT: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))

LIST = 0.25
"""Share of capitalised words, the first one apart, above which a verse is a list of names and not running prose."""


def collect(source: str) -> Collection:
    """The 66 books.

    Raises:
        ValueError: a file that is missing, short, damaged or out of order; the message names the file and the line.
    """
    where, references_at = _pair(source)
    lines = _lines(where, fetch(where, ABOUT["sha256"]["verses"]))
    references = _lines(references_at, fetch(references_at, ABOUT["sha256"]["references"]))
    verses = list(_verses(lines, references, where, references_at))
    kinds = chapter_kinds()
    genres = {book: genre for genre in ABOUT["genres"] for book in genre["books"]}
    books = ((book, list(group)) for book, group in groupby(verses, lambda verse: verse.book))
    return Collection("King James Version", tuple(_entry(book, group, genres[book], kinds) for book, group in books))


def chapter_kinds() -> dict[tuple[str, int], str]:
    """(book, chapter) -> its kind; a book that is of one kind as a whole stands for chapters 1 to 150."""
    kinds = {}
    for kind, ranges in ABOUT["kinds"].items():
        for told in ranges:
            match = re.fullmatch(r"(.+?)(?: (\d+)(?:-(\d+))?)?", told)
            assert match
            book, first, last = match.groups()
            for chapter in range(int(first or 1), int(last or first or 150) + 1):
                kinds[book, chapter] = kind
    return kinds


def prose_share(verses: Sequence[str]) -> float:
    """Share of the words that stand in running prose: in verses of which at most `LIST` of the words, but for the first
    (which any verse begins with), are capitalised. Genealogies and lists of towns are what falls out."""
    words = [verse.split() for verse in verses]
    prose = [verse for verse in words if sum(map(_capitalised, verse[1:])) <= LIST * len(verse[1:])]
    return sum(map(len, prose)) / sum(map(len, words))


def _capitalised(word: str) -> bool:
    return word.lstrip("('")[:1].isupper()


def _pair(source: str) -> tuple[str, str]:
    """Where the verses are, and their references."""
    named = source.endswith(".txt") and (is_address(source) or not Path(source).expanduser().is_dir())
    stem = source.removesuffix(".txt") if named else f"{source.rstrip('/')}/kjv"
    return f"{stem}.txt", f"{stem}-refs.txt"


def _lines(where: str, content: bytes) -> list[str]:
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 ({error})") from error
    if len(lines) != ABOUT["verses"]:
        raise ValueError(f"{where} has {len(lines)} lines, not {ABOUT['verses']}, one a verse; is it whole?")
    return lines


def _verses(lines: list[str], references: list[str], where: str, references_at: str) -> Iterator[Verse]:
    books = [book for genre in ABOUT["genres"] for book in genre["books"]]
    place = (-1, 0, 0)  # index of the book, chapter, verse
    for number, (line, reference) in enumerate(zip(lines, references, strict=True), start=1):
        index, chapter, verse = place
        follows = {
            f"{books[at]} {c} {v}".lower(): (at, c, v)
            for at, c, v in ((index, chapter, verse + 1), (index, chapter + 1, 1), (index + 1, 1, 1))
            if at < len(books)
        }
        if reference not in follows:
            expected = " or ".join(repr(known) for known in follows)
            raise ValueError(f"{references_at}, line {number}: {reference!r}, where {expected} would follow")
        if not line.strip():
            raise ValueError(f"{where}, line {number}: no verse, but {references_at} names {reference!r}")
        place = follows[reference]
        yield Verse(books[place[0]], place[1], place[2], line)
    if place[0] != len(books) - 1:
        raise ValueError(f"{references_at} ends with {books[place[0]]}, not with {books[-1]}")


def _entry(book: str, verses: list[Verse], genre: dict[str, Any], kinds: dict[tuple[str, int], str]) -> Entry:
    text = marked(book, verses, {chapter: kind for (name, chapter), kind in kinds.items() if name == book})
    metadata = Metadata(
        title=book,
        source="King James Version",
        category=genre["category"],
        quality_score=round(10 * prose_share([verse.text for verse in verses]), 2),
        biblical_alignment=10.0,
        priority=genre["priority"],
        license=ABOUT["license"],
    )
    return Entry(text, metadata)
