"""A library of invented scripture whose books differ in all that a library knows of them, and its data as prepared."""

import json
import random
from pathlib import Path
from typing import NamedTuple

from eco.data.library.build import build
from eco.data.library.marks import Verse, marked
from eco.data.prepare import Prepared, TextConfig, prepare
from eco.data.tokenizer import TokenizerConfig

TEXT = (
    "and the king spake unto all the people saying behold thy servants have kept faith and the mercy of the lord "
    "endureth in wisdom yea love thy neighbour with hope forgive them therefore let us pray for the kingdom of heaven"
)


class Book(NamedTuple):
    chapters: int
    quality: float
    alignment: float
    priority: str
    category: str


BOOKS = {
    "Alpha": Book(9, 9.0, 10.0, "high", "law"),
    "Song of Beta": Book(5, 4.0, 2.0, "low", "poetry"),
    "Gamma": Book(7, 8.0, 7.0, "medium", "law"),
}
"""In the order of the library."""

CATEGORIES = ("law", "poetry")


def small_library(folder: Path, seed: int = 0) -> Path:
    """Builds it in `folder`/library and returns that."""
    dice = random.Random(seed)
    source = folder / "source"
    source.mkdir(parents=True)
    for number, (title, book) in enumerate(BOOKS.items()):
        verses = [
            Verse(title, chapter, verse, " ".join(dice.choices(TEXT.split(), k=dice.randrange(3, 24))) + ".")
            for chapter in range(1, book.chapters + 1)
            for verse in range(1, 9)
        ]
        about = {
            "title": title,
            "quality_score": book.quality,
            "biblical_alignment": book.alignment,
            "priority": book.priority,
            "category": book.category,
        }
        (source / f"{number}.txt").write_text(marked(title, verses, {2: "psalm"}))
        (source / f"{number}.json").write_text(json.dumps(about))
    return build(folder / "library", "files", str(source))[0].folder


def prepared(library: Path, cache: Path, layout: str = "structural") -> Prepared:
    data = TextConfig(paths=(f"library:{library}",), held_out=0.2)
    return prepare(data, TokenizerConfig(vocab_size=330, layout=layout), cache)


def book_of(text: str) -> tuple[str, int]:
    """Title and chapter of a document of the store."""
    name = text.split("<chapter>")[1].split("\n")[0].removesuffix(" <psalm>")
    title, _, chapter = name.rpartition(" ")
    return title, int(chapter)
