"""Files of tasks: JSON lines, plain or gzipped, named by the user or downloaded and checked by their digest."""

import gzip
import hashlib
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from eco.config import absolute
from eco.files import replacing
from eco.machine import cache_folder

_BLOCK = 1 << 16
"""Bytes read at a time."""

_SILENCE = 30.0
"""Seconds without a byte after which a download is given up."""


class Row(BaseModel):
    """A line of a file: the fields that a set reads, of exactly their types; a file may have more."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


AnyRow = TypeVar("AnyRow", bound=Row)
Item = TypeVar("Item")


@dataclass(frozen=True)
class PublicFile:
    """A published file. name: in the cache. size: bytes. sha256: of the file as it is downloaded."""

    name: str
    address: str
    size: int
    sha256: str


def locate(task_set: str, path: str | None, public: PublicFile, cache: Path | None = None) -> Path:
    """The file that the user named; without one the public file, from the cache or downloaded into it.

    Raises:
        ValueError: no such file, no network, or what came is not the published file; the message says what to do.
    """
    if path is None:
        return _download(task_set, public, cache_folder() if cache is None else cache)
    found = Path(absolute(path))
    if not found.is_file():
        raise ValueError(f"no file {found}: {task_set}@PATH names a file of JSON lines (.jsonl or .jsonl.gz)")
    return found


def read_rows(path: Path, kind: type[AnyRow], unique: str | None = None) -> Iterator[tuple[str, AnyRow]]:
    """Every line that is not blank with its place, `FILE, line 3`, for messages. unique: a field that tells rows apart.

    Raises:
        ValueError: a line that is no JSON object or lacks a field, or whose unique field was there before, with its
            place; no line at all; a broken archive.
    """
    seen = set[Any]()
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    place = f"{path}, line {number}"
                    row = _row(place, line, kind)
                    value = getattr(row, unique) if unique else number
                    if value in seen:
                        raise ValueError(f"{place}: the {unique} {value!r} was there before")
                    seen.add(value)
                    yield place, row
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} cannot be read: {error}; fetch it again") from error
    if not seen:
        raise ValueError(f"{path} holds no tasks: it has no line that is not blank")


def choose(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """`count` of the items in their order, chosen by the seed; all where there are no more."""
    if count >= len(items):
        return [*items]
    chosen = np.random.default_rng([seed]).permutation(len(items))[:count]
    return [items[index] for index in sorted(chosen.tolist())]


def refuse_levels(task_set: str, level: int) -> None:
    """
    Raises:
        ValueError: a level other than 1.
    """
    if level != 1:
        raise ValueError(f"{task_set}:{level}: {task_set} has no levels; write {task_set}")


def _row(place: str, line: bytes, kind: type[AnyRow]) -> AnyRow:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        raise ValueError(f"{place}: {'; '.join(map(_told, error.errors(include_url=False)))}") from None


def _told(error: Any) -> str:
    field = ".".join(map(str, error["loc"]))
    if error["type"] == "json_invalid":
        return f"not JSON: {error['ctx']['error']}"
    if error["type"] == "missing":
        return f"{field!r} is missing"
    return f"{field!r}: {error['msg']}" if field else "not a JSON object"


def _download(task_set: str, public: PublicFile, cache: Path) -> Path:
    path = cache / "tasks" / public.name
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == public.sha256:
        return path
    by_hand = f"fetch the file by hand and name it: {task_set}@PATH"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "wb") as file:
            digest = hashlib.sha256()
            for block in _blocks(public):
                digest.update(block)
                file.write(block)
            if digest.hexdigest() != public.sha256:
                raise ValueError(
                    f"{public.address} is not the published {public.name}: its SHA-256 is {digest.hexdigest()}, "
                    f"not {public.sha256}; nothing was kept; {by_hand}"
                )
    except (OSError, HTTPException) as error:
        raise ValueError(
            f"{public.name} is not in {path.parent} and cannot be downloaded from {public.address} ({error}); "
            f"{by_hand} (SHA-256 {public.sha256})"
        ) from error
    return path


def _blocks(public: PublicFile) -> Iterator[bytes]:
    """The bytes of an address, at most one more than there should be."""
    left = public.size + 1
    with urllib.request.urlopen(public.address, timeout=_SILENCE) as response:
        while left and (block := response.read(min(_BLOCK, left))):
            left -= len(block)
            yield block
