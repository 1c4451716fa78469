"""The structural vocabulary: marks in a text that say what stands there, each of them one token.

A mark is text: `<verse>` in a document becomes one id, and the id decodes to `<verse>` again.
"""

import re

STRUCTURAL_TOKENS = (
    "<pad>", "<unk>", "<bos>", "<eos>", "<mask>", "<sep>",
    "<verse>", "<chapter>", "<book>", "<quote>", "<prayer>",
    "<prophecy>", "<parable>", "<genealogy>", "<law>", "<psalm>",
)  # fmt: skip
"""Ids 0 to 15 of a tokenizer with the structural layout. The first six are special: no text becomes one of them."""

MARKS = STRUCTURAL_TOKENS[6:]

_ANY_MARK = re.compile("|".join(map(re.escape, MARKS)))


def between_marks(text: str) -> list[str]:
    """The text without its marks, cut where they stood; what byte-pair encoding gets to see of it."""
    return [passage for passage in _ANY_MARK.split(text) if passage]
