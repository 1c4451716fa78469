"""MANIFEST.json of a bundle: size and SHA-256 of every other file, and of itself, so that any change is found."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from eco.files import sha256, write_json

MANIFEST = "MANIFEST.json"
"""Sorts before the other names of a bundle, so that it is the first file of an archive."""

FORMAT = 1
"""Version of the layout of a bundle; a reader knows this one and older ones."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
"""Relative, below the bundle on every system, and no hidden file."""


class Damaged(ValueError):
    """A bundle or an archive is not what was packed."""


@dataclass(frozen=True)
class File:
    """size: in bytes; sha256: hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """files: name relative to the bundle, with `/` between folders -> what it must be."""

    files: Mapping[str, File]

    @property
    def bytes(self) -> int:
        """Size of all files that it names."""
        return sum(file.size for file in self.files.values())


def is_bundle(folder: Path) -> bool:
    """Whether the folder says that it is a bundle; nothing is proved."""
    return (folder / MANIFEST).is_file()


def write_manifest(folder: Path) -> None:
    """Describes every file that `folder` holds now, in the order of their names."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): File(path.stat().st_size, sha256(path)) for path in paths}
    assert MANIFEST not in files and all(map(_NAME.fullmatch, files)), "names that a reader takes"
    body = {"format": FORMAT, "files": {name: asdict(file) for name, file in files.items()}}
    write_json(folder / MANIFEST, {**body, "sha256": _digest_of(body)})


def parse(content: bytes) -> Manifest:
    """A manifest from the content of its file, proved by its own digest.

    Raises:
        Damaged: no manifest, an altered one, or one that names what may not be in a bundle.
        ValueError: it is from a later version of the layout.
    """
    try:
        body = json.loads(content)
        stated = body.pop("sha256")
        if stated != _digest_of(body):
            raise Damaged(f"{MANIFEST} has been altered: it does not have the digest that it states")
        if body["format"] > FORMAT:
            raise ValueError(
                f"the bundle has format {body['format']}, newer than {FORMAT}, which is known here; update"
            )
        files = {name: File(int(file["size"]), str(file["sha256"])) for name, file in body["files"].items()}
    except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Damaged(f"{MANIFEST} cannot be read: {error!r}") from error
    for name, file in files.items():
        if not _NAME.fullmatch(name) or name == MANIFEST or file.size < 0:
            raise Damaged(f"{MANIFEST} names {name!r}, which no bundle may hold")
    return Manifest(files)


def check_folder(folder: Path) -> Manifest:
    """The manifest of a bundle, every file of which was read to its end and is as the manifest says.

    Raises:
        Damaged: files are missing, altered, links, or named nowhere; the message tells each.
        ValueError: it is from a later version of the layout.
    """
    try:
        manifest = parse((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise Damaged(f"{folder} is no bundle: {MANIFEST} cannot be read ({error.strerror})") from error
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}
    problems = [f"{name} is not in {MANIFEST}" for name in sorted(found.keys() - manifest.files.keys() - {MANIFEST})]
    for name, file in manifest.files.items():
        if name not in found:
            problems.append(f"{name} is missing")
        elif problem := _problem(found[name], name, file):
            problems.append(problem)
    if problems:
        raise Damaged(f"{folder} is damaged: {'; '.join(problems)}")
    return manifest


def _problem(path: Path, name: str, file: File) -> str | None:
    if path.is_symlink() or not path.is_file():
        return f"{name} is no plain file"
    if (size := path.stat().st_size) != file.size:
        return f"{name} has {size} bytes instead of {file.size}"
    return None if sha256(path) == file.sha256 else f"{name} has been altered (its SHA-256 differs)"


def _digest_of(body: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
