"""What a recipe of a library offers.

It defines `collect(source) -> Collection`, where `source` is the path or address after `--source`, and `FOLDER`, where
the library goes if no folder is named (None: one must be). The same source must give the same collection.
"""

from dataclasses import dataclass

from eco.data.library.metadata import Metadata


@dataclass(frozen=True)
class Entry:
    """A document and what is known of it."""

    text: str
    metadata: Metadata


@dataclass(frozen=True)
class Collection:
    """The documents of a library, in order. `name` goes into the manifest."""

    name: str
    entries: tuple[Entry, ...]
