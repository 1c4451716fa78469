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
from eco.data.sources.contract import SourceOptions


@dataclass(frozen=True)
class Corpus:
    """The distinct documents of `locations`, in order of their first occurrence.

    hashes: (n, 2) uint64, XXH3-128 of each document's UTF-8 bytes.
    sizes: (n,) int64, bytes of each document.
    held_out: (n,) bool, True for the documents that no training sees.
    duplicates: further copies of documents, here or in a corpus scanned before with the same `seen`.
    skipped: reason -> number of files or records left out.
    """

    locations: tuple[str, ...]
    text_field: str | None
    share: float
    hashes: npt.NDArray[np.uint64] = field(repr=False)
    sizes: npt.NDArray[np.int64] = field(repr=False)
    held_out: npt.NDArray[np.bool_] = field(repr=False)
    duplicates: int
    skipped: dict[str, int]

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that name the documents, their order and their split."""
        content = xxhash.xxh3_128(self.hashes.tobytes())
        content.update(self.held_out.tobytes())
        if len(self.sizes) == 1:
            content.update(repr(self.share).encode())  # says where the document is cut
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
        for text in _read(self.locations, SourceOptions(self.text_field)):
            if expected < len(self.sizes) and _hash(text.encode()) == self.hashes[expected].tobytes():
                yield text, bool(self.held_out[expected])
                expected += 1
        if expected < len(self.sizes):
            where = ", ".join(self.locations)
            raise ValueError(f"data.paths: the files of {where} changed while they were read; start again")


def scan(locations: tuple[str, ...], text_field: str | None, share: float, seen: set[bytes]) -> Corpus:
    """Reads the locations once, leaving out every document whose hash is in `seen`, to which it adds the new ones.

    A document is held out if its hash, as a fraction, lies below `share`: the same document is on the same side
    whatever else the corpus holds. Few documents may miss the share by far: where none is held out, or so many that
    their bytes are nearer to all than to the share, the one whose size is nearest to the share is held out instead.

    Raises:
        ValueError: a location that does not exist, a malformed file, or no document at all.
    """
    options = SourceOptions(text_field)
    hashes, sizes, duplicates = bytearray(), array("q"), 0
    for text in _read(locations, options):
        data = text.encode()
        key = _hash(data)
        if key in seen:
            duplicates += 1
        else:
            seen.add(key)
            hashes += key
            sizes.append(len(data))
    if not sizes:
        left_out = ", ".join(f"{n} {reason}" for reason, n in {**options.skipped, "duplicate": duplicates}.items() if n)
        raise ValueError(f"data.paths: empty corpus: no text in {', '.join(locations)} ({left_out or 'nothing found'})")
    table = np.frombuffer(bytes(hashes), dtype=np.uint64).reshape(-1, 2)
    lengths = np.array(sizes)
    held_out = _choose(table[:, 0], lengths, share)
    return Corpus(locations, text_field, share, table, lengths, held_out, duplicates, dict(options.skipped))


def split(text: str, share: float) -> tuple[str, str]:
    """Cuts one text so that about `share` of it is held out: at the nearest line break, else between characters."""
    aim = max(1, round(len(text) * (1 - share)))
    breaks = [cut + 1 for cut in (text.rfind("\n", 0, aim), text.find("\n", aim)) if 0 <= cut < len(text) - 1]
    cut = min(breaks, key=lambda position: abs(position - aim), default=min(aim, len(text) - 1))
    return text[:cut], text[cut:]


def _choose(hashes: npt.NDArray[np.uint64], sizes: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.bool_]:
    """Which documents are held out; none where there is only one."""
    held_out = hashes < np.uint64(share * 2.0**64)
    total = sizes.sum()
    if not 0 < sizes[held_out].sum() <= (1 + share) / 2 * total:
        nearest = np.lexsort((hashes, np.abs(sizes - share * total)))[0]
        held_out = np.arange(len(sizes)) == nearest
    return held_out if len(sizes) > 1 else np.zeros(1, dtype=np.bool_)


def _read(locations: tuple[str, ...], options: SourceOptions) -> Iterator[str]:
    """The documents of all locations, in order; `NAME:REST` goes to the source NAME, all else to `files`."""
    for location in locations:
        name, rest = source_of(location)
        yield from plugins.find("data.sources", name).documents(rest, options)


def source_of(location: str) -> tuple[str, str]:
    """(name of the source, what it is told) of one entry of `data.paths`."""
    name, colon, rest = location.partition(":")
    return (name, rest) if colon and name in plugins.names("data.sources") else ("files", location)


def _hash(data: bytes) -> bytes:
    return xxhash.xxh3_128_digest(data)
