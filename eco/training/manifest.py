"""The manifest of a checkpoint: which files it has, their digests, and which recipe it fits."""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from eco.files import write_json

MANIFEST = "manifest.json"
FORMAT = 1
"""Version of the layout; a reader knows this one and older ones."""

_READ_BYTES = 1 << 20
"""Read at a time: small enough to stay in the processor's cache between reading and hashing."""

_CHUNK_BYTES = 1 << 26
"""Hashed by one thread: a file's digest is that of its chunks' digests, so that every core can work on one file."""


class Damaged(ValueError):
    """The files of a checkpoint are not what was saved."""


@dataclass(frozen=True)
class File:
    """name: relative to the checkpoint; bytes: its size; xxh3_128: see `digest`."""

    name: str
    bytes: int
    xxh3_128: str


@dataclass(frozen=True)
class Manifest:
    """step: optimizer steps done; fit: see `Checkpoints.save`; files: every file but the manifest itself."""

    step: int
    fit: dict[str, Any]
    files: tuple[File, ...]

    def write(self, folder: Path) -> None:
        body = {"format": FORMAT, "step": self.step, "fit": self.fit, "files": [asdict(file) for file in self.files]}
        write_json(folder / MANIFEST, {**body, "xxh3_128": _digest_of(body)})

    @staticmethod
    def read(folder: Path) -> "Manifest":
        """The manifest in `folder`, proved by its own digest.

        Raises:
            Damaged: it is missing, no JSON, or altered.
            ValueError: it is from a later version of the layout.
        """
        try:
            body = json.loads((folder / MANIFEST).read_bytes())
            stated = body.pop("xxh3_128")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"{folder / MANIFEST} cannot be read: {error!r}") from error
        if stated != _digest_of(body):
            raise Damaged(f"{folder / MANIFEST} does not have the digest that it states")
        if body["format"] > FORMAT:
            raise ValueError(
                f"checkpoint {folder} has format {body['format']}, newer than {FORMAT}, which is known here; update"
            )
        return Manifest(body["step"], body["fit"], tuple(File(**file) for file in body["files"]))


def describe(path: Path) -> File:
    """Digests a file while it is being put on the disk."""
    with ThreadPoolExecutor(1) as syncing, open(path, "rb") as stream:
        synced = syncing.submit(os.fsync, stream.fileno())
        found = File(path.name, path.stat().st_size, digest(path))
        synced.result()
    return found


def digest(path: Path) -> str:
    """xxh3_128 of the xxh3_128 of each chunk of a file, hexadecimal."""
    with ThreadPoolExecutor() as threads:
        chunks = threads.map(lambda first: _chunk_digest(path, first), range(0, path.stat().st_size, _CHUNK_BYTES))
        return xxhash.xxh3_128(b"".join(chunks)).hexdigest()


def _chunk_digest(path: Path, first: int) -> bytes:
    """Reads rather than maps: a bad disk is then an OSError, not a signal that kills the process."""
    state = xxhash.xxh3_128()
    buffer = memoryview(bytearray(_READ_BYTES))
    with open(path, "rb", buffering=0) as stream:
        stream.seek(first)
        while stream.tell() < first + _CHUNK_BYTES and (count := stream.readinto(buffer)):
            state.update(buffer[:count])
    return state.digest()


def damages(folder: Path, manifest: Manifest) -> list[str]:
    """What is wrong with the files that the manifest lists."""
    return [problem for file in manifest.files if (problem := _damage(folder / file.name, file))]


def _damage(path: Path, file: File) -> str | None:
    if not path.is_file():
        return f"{file.name} is missing"
    if (size := path.stat().st_size) != file.bytes:
        return f"{file.name} has {size} bytes instead of {file.bytes}"
    return None if digest(path) == file.xxh3_128 else f"{file.name} has been altered (its digest differs)"


def check_fit(folder: Path, recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raises ValueError naming every fact in which a checkpoint differs from the run that wants it."""
    before, now = _flat(recorded), _flat(json.loads(json.dumps(asked)))
    differences = [
        f"{key} is {before.get(key, 'absent')} in the checkpoint and {now.get(key, 'absent')} in the recipe"
        for key in dict.fromkeys([*before, *now])
        if before.get(key, _ABSENT) != now.get(key, _ABSENT)
    ]
    if differences:
        raise ValueError(
            f"checkpoint {folder} does not fit the recipe: {'; '.join(differences)}. "
            "Use the run's own recipe, or another output directory"
        )


_ABSENT = object()


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"width": 8}} as {"model.width": 8}."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _digest_of(body: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128(json.dumps(body, sort_keys=True).encode()).hexdigest()
