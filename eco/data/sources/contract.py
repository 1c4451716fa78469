"""What a kind of source offers. A file in this folder is one; `data.paths` names it in front of a colon (`stdlib:`).

It defines `documents(location, options) -> Iterator[str]`, where `location` is what follows the colon. The same call
must yield the same documents in the same order, for they are read twice: once to be counted and hashed, once to be
encoded. A source holds one document at a time, not the corpus.
"""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class SourceOptions:
    """What a source is told, and where it counts what it leaves out.

    text_field: the field of a record (JSON Lines, Parquet) that holds the text; None takes the first of
        `TEXT_FIELDS` that the record has.
    skipped: reason -> number of documents or files left out: binary, undecodable, unreadable, empty.
    """

    text_field: str | None = None
    skipped: Counter[str] = field(default_factory=Counter)


TEXT_FIELDS = ("text", "content", "code")
"""Usual names of the text in public data sets."""
