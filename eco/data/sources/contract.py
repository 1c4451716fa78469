"""What a kind of source offers. A file in this folder is one; `data.paths` names it in front of a colon (`stdlib:`).

It defines `documents(location, options) -> Iterator[str | Document]`, where `location` is what follows the colon: the
texts, or documents with what is known of them. The same call must yield the same ones in the same order, for they are
read twice: once to be counted and hashed, once to be encoded. A source holds one document at a time, not the corpus.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

Facts = Mapping[str, float]
"""Numbers known of a document, by name."""

NO_FACTS: Facts = {}


@dataclass(frozen=True)
class Document:
    """A text and what its source knows of it.

    stratum: documents of one stratum are held out in proportion; "" where the source has no strata.
    facts: numbers by name, which `Prepared.facts` hands on to whoever labels the samples.
    """

    text: str
    stratum: str = ""
    facts: Facts = field(default_factory=lambda: NO_FACTS)


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
