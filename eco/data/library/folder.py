"""A library on disk: `001_genesis.txt` and `001_genesis.json` per document, and the manifest `corpus.json`.

The manifest has the SHA-256 of every file and of itself, and nothing of when or where it was built: the same documents
give the same bytes. Reading verifies.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eco.data.library.marks import units, word_count
from eco.data.library.metadata import read_metadata
from eco.data.library.recipes.contract import Collection, Entry

FORMAT = 1
"""Rises when the files change their meaning."""

MANIFEST = "corpus.json"


@dataclass(frozen=True)
class Item:
    """A document in the manifest. `name` is that of its files without suffix; sizes are of the text, in UTF-8 bytes."""

    name: str
    title: str
    category: str
    units: int
    bytes: int
    text_sha256: str
    metadata_sha256: str


@dataclass(frozen=True)
class Library:
    """A manifest. categories: in the order of their first document. digest: SHA-256 of all the rest."""

    folder: Path
    name: str
    categories: tuple[str, ...]
    items: tuple[Item, ...]
    digest: str

    def read(self, item: Item) -> Entry:
        """A document, once both its files are found to be what the manifest says.

        Raises:
            ValueError: a file is missing or was changed.
        """
        text = self._verified(f"{item.name}.txt", item.text_sha256)
        self._verified(f"{item.name}.json", item.metadata_sha256)
        return Entry(text.decode(), read_metadata(self.folder / f"{item.name}.json"))

    def verify(self) -> None:
        """Reads every document.

        Raises:
            ValueError: a file is missing or was changed.
        """
        for item in self.items:
            self.read(item)

    def _verified(self, name: str, sha256: str) -> bytes:
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}); {_mend(self.folder)}") from error
        if _sha256(content) != sha256:
            raise ValueError(f"{path} was changed since the library was built; {_mend(self.folder)}")
        return content


def open_library(folder: Path) -> Library:
    """The library in a folder, by its manifest.

    Raises:
        ValueError: no library is there, or its manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} is no library: it has no {MANIFEST}; `eco data build-corpus` makes one")
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        digest = read.pop("digest")
        whole = digest == _digest(read)
        known = whole and read["format"] == FORMAT
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        whole = known = False
    if not known:
        what = "has another format than this version of Eco reads" if whole else "was changed since it was written"
        raise ValueError(f"{path} {what}; {_mend(folder)}")
    items = tuple(Item(**item) for item in read["documents"])
    return Library(folder, read["name"], tuple(read["categories"]), items, digest)


def contents(collection: Collection) -> dict[str, bytes]:
    """File name -> content of the library that holds these documents."""
    files: dict[str, bytes] = {}
    items = []
    digits = max(3, len(str(len(collection.entries))))
    for number, entry in enumerate(collection.entries, start=1):
        slug = re.sub(r"\W+", "_", entry.metadata.title.lower()).strip("_")[:60]
        name = f"{number:0{digits}}_{slug}"
        text = entry.text.encode()
        about = _json(_told(entry, f"{name}.txt", _sha256(text)))
        files |= {f"{name}.txt": text, f"{name}.json": about}
        cut = len(units(entry.text))
        title, category = entry.metadata.title, entry.metadata.category
        items.append(Item(name, title, category, cut, len(text), _sha256(text), _sha256(about)))
    manifest = {
        "format": FORMAT,
        "name": collection.name,
        "categories": [*dict.fromkeys(item.category for item in items)],
        "documents": [asdict(item) for item in items],
    }
    return {**files, MANIFEST: _json({**manifest, "digest": _digest(manifest)})}


def is_of_a_library(name: str) -> bool:
    """Whether a file of this name may be one that `contents` names."""
    return name == MANIFEST or bool(re.fullmatch(r"\d{3,}_\w*\.(txt|json)", name))


def _told(entry: Entry, filepath: str, sha256: str) -> dict[str, Any]:
    return {**entry.metadata.model_dump(), "word_count": word_count(entry.text), "hash": sha256, "filepath": filepath}


def _digest(manifest: dict[str, Any]) -> str:
    return _sha256(json.dumps(manifest, sort_keys=True).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _mend(folder: Path) -> str:
    return f"build it again: eco data build-corpus {folder} --source ... --force"
