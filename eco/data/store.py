"""The token store: all ids of a corpus in memory-mapped files, built once per content.

A store is a folder with, for each of the parts `training` and `held_out`, NAME.tokens (uint16 or uint32: an end-of-text
id, then every document followed by one) and NAME.documents (int64: where each document starts, and the end), and
`index.json` with a digest of each file and of itself. It is built beside its place under a file lock and moved there
when whole.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from filelock import FileLock

from eco.data.corpus import Corpus
from eco.data.tokenizer import Ids, Tokenizer
from eco.files import replacing_folder, write_json

FORMAT = 1
"""Rises when the files change their meaning, so that old stores are rebuilt."""

PARTS = ("training", "held_out")

_BATCH = 16 << 20  # characters encoded at a time
_BLOCK = 16 << 20  # bytes read at a time to check a digest


@dataclass(frozen=True)
class Part:
    """One side of the split.

    tokens: (n + 1,) ids; the first is an end-of-text id, so that each of the n others has one before it.
    documents: (d + 1,) int64; document k, with its end-of-text id, is `tokens[documents[k]:documents[k + 1]]`.
    text_bytes: UTF-8 bytes of the documents.
    """

    tokens: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
    documents: npt.NDArray[np.int64]
    text_bytes: int

    @property
    def targets(self) -> int:
        """Tokens that can be predicted: all but the first."""
        return len(self.tokens) - 1


@dataclass(frozen=True)
class TokenStore:
    """An open store. `folder` is where it lies."""

    folder: Path
    training: Part
    held_out: Part


def open_store(corpus: Corpus, tokenizer: Tokenizer, cache: Path, say: Callable[[str], None]) -> TokenStore:
    """The store of `corpus` under `cache`; builds it if it is missing or damaged, while other processes wait.

    Raises:
        ValueError: the corpus changed while it was read.
        OSError: the cache cannot be written, or the disk is full; nothing half-built stays under the store's name.
    """
    key = xxhash.xxh3_128_hexdigest(f"{FORMAT} {corpus.digest} {tokenizer.digest}".encode())
    folder = cache / key
    with FileLock(cache / f"{key}.lock"):
        store = _load(folder)
        if store is None:
            if folder.exists():
                say(f"the token store {folder} is damaged and is built again")
            say(f"encoding {int(corpus.sizes.sum()) / 1e6:.1f} MB of text")
            _build(corpus, tokenizer, folder)
            store = _load(folder)
            assert store is not None
    return store


def _load(folder: Path) -> TokenStore | None:
    """The store in `folder`, or None if it is not there, or not as its index says."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if index.pop("digest") != _index_digest(index):
            return None
        if any(_digest(folder / name) != digest for name, digest in index["digests"].items()):
            return None
        return TokenStore(folder, *(_load_part(folder, name, index) for name in PARTS))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _load_part(folder: Path, name: str, index: dict[str, Any]) -> Part:
    tokens = np.memmap(folder / f"{name}.tokens", dtype=index["dtype"], mode="r")
    documents = np.memmap(folder / f"{name}.documents", dtype=np.int64, mode="r")
    # As plain arrays: slicing a memmap object costs ten times a slice.
    return Part(tokens.view(np.ndarray), documents.view(np.ndarray), index["text_bytes"][name])


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _index_digest(index: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(index, sort_keys=True).encode())


def _build(corpus: Corpus, tokenizer: Tokenizer, folder: Path) -> None:
    with replacing_folder(folder) as beside:  # the lock is ours
        dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
        writers = [_PartWriter(beside, name, dtype, tokenizer.eos) for name in PARTS]
        for batch in _batches(corpus.documents()):
            ids = tokenizer.encode_batch([text for text, _ in batch])
            for (text, held_out), document in zip(batch, ids, strict=True):
                writers[held_out].write(document, len(text.encode()))
        text_bytes = {writer.name: writer.close() for writer in writers}
        index: dict[str, Any] = {"dtype": dtype.name, "text_bytes": text_bytes}
        index["digests"] = {path.name: _digest(path) for path in sorted(beside.iterdir())}
        write_json(beside / "index.json", {**index, "digest": _index_digest(index)})


class _PartWriter:
    """Appends documents to the two files of a part."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any], eos: int) -> None:
        self.name = name
        self._eos = np.array([eos], dtype=dtype)
        self._tokens = open(folder / f"{name}.tokens", "wb")  # noqa: SIM115 (closed in `close`)
        self._documents = open(folder / f"{name}.documents", "wb")  # noqa: SIM115
        self._tokens.write(self._eos.tobytes())
        self._documents.write(np.int64(1).tobytes())
        self._end = 1
        self._text_bytes = 0

    def write(self, ids: Ids, text_bytes: int) -> None:
        self._tokens.write(ids.astype(self._eos.dtype).tobytes())
        self._tokens.write(self._eos.tobytes())
        self._end += len(ids) + 1
        self._documents.write(np.int64(self._end).tobytes())
        self._text_bytes += text_bytes

    def close(self) -> int:
        """Brings both files to the disk; returns the bytes of text that they stand for."""
        for stream in (self._tokens, self._documents):
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
        return self._text_bytes


def _batches(documents: Iterator[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    batch: list[tuple[str, bool]] = []
    size = 0
    for text, held_out in documents:
        batch.append((text, held_out))
        size += len(text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
