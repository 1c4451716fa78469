"""A corpus: the distinct documents of some locations, and which of them are held out.

A corpus is read twice, one document in memory at a time. The first pass hashes: that removes exact duplicates, splits
off the held-out documents and names the content. The second pass hands the documents out.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import xxhash

from eco import plugins
from eco.data.sources.contract import Document, Facts, SourceOptions
from eco.data.split import choose, split


@dataclass(frozen=True)
class Corpus:
    """The distinct documents of `locations`, in order of their first occurrence.

    hashes: (n, 2) uint64, XXH3-128 of each document's UTF-8 bytes.
    sizes: (n,) int64, bytes of each document.
    held_out: (n,) bool, True for the documents that no training sees.
    duplicates: further copies of documents, here or in a corpus scanned before with the same `seen`.
    skipped: reason -> number of files or records left out.
    facts: what the sources told of each document; None where none told anything.
    """

    locations: tuple[str, ...]
    text_field: str | None
    share: float
    hashes: npt.NDArray[np.uint64] = field(repr=False)
    sizes: npt.NDArray[np.int64] = field(repr=False)
    held_out: npt.NDArray[np.bool_] = field(repr=False)
    duplicates: int
    skipped: dict[str, int]
    facts: tuple[Facts, ...] | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that name the documents, their order, their split and what was told of them."""
        content = xxhash.xxh3_128(self.hashes.tobytes())
        content.update(self.held_out.tobytes())
        if len(self.sizes) == 1:
            content.update(repr(self.share).encode())  # says where the document is cut
        if self.facts is not None:
            content.update(repr([sorted(facts.items()) for facts in self.facts]).encode())
        return content.hexdigest()

    def documents(self) -> Iterator[tuple[str, bool]]:
        """Each document with whether it is held out. The only document of a corpus comes in two parts, see `split`.

        Raises:
            ValueError: the files changed since they were scanned.
        """
        for text, held_out in self._distinct():
            if len(self.sizes) == 1:
                training, held = split(text, self.share)
                yield training, False
                yield held, True
            else:
                yield text, held_out

    def training_sample(self, limit: int) -> Iterator[str]:
        """Training documents of `limit` bytes together, or all; which ones depends on their hashes alone."""
        by_chance = np.argsort(self.hashes[:, 1], kind="stable")
        candidates = by_chance[~self.held_out[by_chance]]
        before = np.cumsum(self.sizes[candidates]) - self.sizes[candidates]
        chosen = set(candidates[before < limit].tolist())
        left = limit
        training = (text for text, held_out in self.documents() if not held_out)
        indices = np.flatnonzero(~self.held_out).tolist()
        for index, text in zip(indices, training, strict=True):
            if index in chosen:
                data = text.encode()[:left]
                left -= len(data)
                yield data.decode(errors="ignore")

    def _distinct(self) -> Iterator[tuple[str, bool]]:
        expected = 0
        for document in _read(self.locations, SourceOptions(self.text_field)):
            if expected < len(self.sizes) and _hash(document.text.encode()) == self.hashes[expected].tobytes():
                yield document.text, bool(self.held_out[expected])
                expected += 1
        if expected < len(self.sizes):
            where = ", ".join(self.locations)
            raise ValueError(f"data.paths: the files of {where} changed while they were read; start again")


def scan(locations: tuple[str, ...], text_field: str | None, share: float, seen: set[bytes]) -> Corpus:
    """Reads the locations once, leaving out every document whose hash is in `seen`, to which it adds the new ones.

    A document is held out if its hash, as a fraction, lies below `share`: the same document is on the same side
    whatever else the corpus holds. Few documents may miss the share by far: where none is held out, or so many that
    their bytes are nearer to all than to the share, the one whose size is nearest to the share is held out instead.
    Where sources name strata, each stratum gives its share of bytes instead, its documents again chosen by hash.

    Raises:
        ValueError: a location that does not exist, a malformed file, or no document at all.
    """
    options = SourceOptions(text_field)
    hashes, sizes, duplicates = bytearray(), array("q"), 0
    strata: list[str] = []
    told: list[Facts] = []
    for document in _read(locations, options):
        data = document.text.encode()
        key = _hash(data)
        if key in seen:
            duplicates += 1
        else:
            seen.add(key)
            hashes += key
            sizes.append(len(data))
            strata.append(document.stratum)
            told.append(document.facts)
    if not sizes:
        left_out = ", ".join(f"{n} {reason}" for reason, n in {**options.skipped, "duplicate": duplicates}.items() if n)
        raise ValueError(f"data.paths: empty corpus: no text in {', '.join(locations)} ({left_out or 'nothing found'})")
    table = np.frombuffer(bytes(hashes), dtype=np.uint64).reshape(-1, 2)
    lengths = np.array(sizes)
    held_out = choose(table[:, 0], lengths, strata, share)
    facts = tuple(told) if any(told) else None
    return Corpus(locations, text_field, share, table, lengths, held_out, duplicates, dict(options.skipped), facts)


def _read(locations: tuple[str, ...], options: SourceOptions) -> Iterator[Document]:
    """The documents of all locations, in order; `NAME:REST` goes to the source NAME, all else to `files`."""
    for location in locations:
        name, rest = source_of(location)
        for document in plugins.find("data.sources", name).documents(rest, options):
            yield Document(document) if isinstance(document, str) else document


def source_of(location: str) -> tuple[str, str]:
    """(name of the source, what it is told) of one entry of `data.paths`."""
    name, colon, rest = location.partition(":")
    return (name, rest) if colon and name in plugins.names("data.sources") else ("files", location)


def _hash(data: bytes) -> bytes:
    return xxhash.xxh3_128_digest(data)
