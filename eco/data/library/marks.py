"""The marks of a document's structure, literal text at the start of a line, and the unit of splitting they give.

    <book>Psalms
    <chapter>Psalms 23 <psalm>
    <verse>Psalms 23:1 The LORD is my shepherd; I shall not want.

The kind of a chapter follows its title where it is known. A document without marks is one unit.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

KINDS = ("prayer", "prophecy", "parable", "genealogy", "law", "psalm")
"""Kinds of a chapter that have a mark."""

_UNIT = re.compile("(?=<chapter>)")
_VERSE = re.compile(r"<verse>(?P<book>.+?) (?P<chapter>\d+):(?P<verse>\d+) (?P<text>.*)")
_STRUCTURE = re.compile(r"^<(?:book|chapter)>.*$|^<verse>.+? \d+:\d+ ", re.MULTILINE)


@dataclass(frozen=True)
class Verse:
    """One verse and where it stands."""

    book: str
    chapter: int
    verse: int
    text: str


def marked(book: str, verses: Iterable[Verse], kinds: dict[int, str]) -> str:
    """The verses of one book as a document. kinds: chapter -> its kind, one of `KINDS`."""
    lines, chapter = [f"<book>{book}"], 0
    for verse in verses:
        if verse.chapter != chapter:
            chapter = verse.chapter
            kind = f" <{kinds[chapter]}>" if chapter in kinds else ""
            lines.append(f"<chapter>{book} {chapter}{kind}")
        lines.append(f"<verse>{book} {chapter}:{verse.verse} {verse.text}")
    return "\n".join(lines) + "\n"


def verses_of(text: str) -> Iterator[Verse]:
    """The verses of a document or a unit, as `marked` was given them."""
    for line in text.split("\n"):
        if match := _VERSE.fullmatch(line):
            yield Verse(match["book"], int(match["chapter"]), int(match["verse"]), match["text"])


def units(text: str) -> list[str]:
    """The document cut in front of each chapter; what comes before the first belongs to it. Joined, they are `text`."""
    pieces = _UNIT.split(text)
    if len(pieces) > 1 and not pieces[0].startswith("<chapter>"):
        pieces[:2] = [pieces[0] + pieces[1]]
    return pieces


def word_count(text: str) -> int:
    """Words between white space, without the lines and references that are structure."""
    return len(_STRUCTURE.sub("", text).split())
