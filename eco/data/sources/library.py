"""`library:DIR` is a library that `eco data build-corpus` made; its units (chapters, if there are some) are documents.

Held out in proportion are the units of each document, and those documents of a category that are one unit."""

from collections.abc import Iterator
from pathlib import Path

from eco.data.library.folder import open_library
from eco.data.library.marks import units
from eco.data.library.metadata import PRIORITIES
from eco.data.sources.contract import Document, SourceOptions


def documents(location: str, options: SourceOptions) -> Iterator[Document]:
    """Facts of a unit: `document` and `category`, their indices in the manifest; `place`, the share of the document's
    units that come before it; `quality` and `alignment`, 0 to 10; `priority`, 0.9, 0.6 or 0.3.

    Raises:
        ValueError: no library is there, or a file of it was changed.
    """
    library = open_library(Path(location).expanduser())
    for index, item in enumerate(library.items):
        entry = library.read(item)
        told = {
            "document": float(index),
            "category": float(library.categories.index(item.category)),
            "quality": entry.metadata.quality_score,
            "alignment": entry.metadata.biblical_alignment,
            "priority": PRIORITIES[entry.metadata.priority],
        }
        pieces = units(entry.text)
        stratum = item.name if len(pieces) > 1 else item.category
        for number, piece in enumerate(pieces):
            yield Document(piece, stratum, {**told, "place": number / len(pieces)})
