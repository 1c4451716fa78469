"""Marks: what is written can be read back, and the units join to the document."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco.data.library.marks import Verse, marked, units, verses_of, word_count

WORDS = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))


@given(
    st.lists(st.tuples(st.integers(1, 150), st.integers(1, 176), WORDS), max_size=20),
    st.sampled_from(["Job", "1 John"]),
)
def test_verses_come_back_exactly(numbers: list[tuple[int, int, str]], book: str) -> None:
    verses = [Verse(book, chapter, verse, text) for chapter, verse, text in numbers]
    assert list(verses_of(marked(book, verses, {1: "law", 23: "psalm"}))) == verses


def test_the_text_is_as_the_contract_says() -> None:
    verses = [Verse("Psalms", 23, 1, "The LORD."), Verse("Psalms", 23, 2, "He."), Verse("Psalms", 24, 1, "The earth.")]
    text = marked("Psalms", verses, {23: "psalm"})
    assert text == (
        "<book>Psalms\n<chapter>Psalms 23 <psalm>\n<verse>Psalms 23:1 The LORD.\n<verse>Psalms 23:2 He.\n"
        "<chapter>Psalms 24\n<verse>Psalms 24:1 The earth.\n"
    )
    first, second = units(text)
    assert first.startswith("<book>Psalms\n<chapter>Psalms 23") and second.startswith("<chapter>Psalms 24")
    assert word_count(text) == 5, "structure is not counted"


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 1), ("no marks\n", 1), ("<chapter>a", 1), ("<book>b\n<chapter>a\n", 1), ("<chapter>a\n<chapter>b\n", 2)],
)
def test_units_join_to_the_document(text: str, count: int) -> None:
    assert "".join(units(text)) == text and len(units(text)) == count
