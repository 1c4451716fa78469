"""The store: immutable versions of verified rows, and a pointer to the one that counts.

    v0001/rows.jsonl        the rows that this version adds to its parent
    v0001/manifest.json     parent, provenance, funnel, and the digest of the rows
    v0001/outcome.json      what the gate found and decided, once it has
    HEAD.json               the version that counts; promotion and rollback move it and nothing else

The content of a version is its chain: the rows of its ancestors and its own, less those that a manifest on the way
removes. v0000 is the empty start and has no folder. A version is written beside its place and made visible by a rename,
and vouches for its parent by digest, so that no changed byte of a chain goes unseen. One process writes; any number may
read meanwhile.
"""

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eco.files import replacing, sync_folder
from eco.improvement.store.manifest import Facts, Manifest
from eco.improvement.store.row import Row
from eco.improvement.store.sealed import Damaged, read_sealed, write_sealed

EMPTY = "v0000"
"""The version before the first."""

_HEAD, _ROWS, _OUTCOME = "HEAD.json", "rows.jsonl", "outcome.json"


class VerifiedStore:
    """The versions in a folder, which the first `append` makes.

    Whatever reads raises `Damaged`, a ValueError that names the file and a version to roll back to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def exists(self) -> bool:
        return (self.folder / _HEAD).exists() or bool(self.versions())

    @property
    def head(self) -> str:
        """The version that counts."""
        if not self.exists:
            return EMPTY
        try:
            head = read_sealed(self.folder / _HEAD)
            if head["version"] != EMPTY and self._manifest(head["version"]).seal != head["manifest"]:
                raise Damaged(f"{self._place(head['version'])} is not the version that {_HEAD} was pointed to")
        except Damaged as error:
            raise self._with_remedy(error) from None
        return str(head["version"])

    def versions(self) -> list[str]:
        """All versions that were written, oldest first, promoted or not."""
        found = [path.name for path in self.folder.glob("v*") if re.fullmatch(r"v[0-9]{4,}", path.name)]
        return sorted(found, key=_number)

    def manifest(self, version: str) -> Manifest:
        """
        Raises:
            ValueError: no such version, or a damaged one.
        """
        self._check_known(version)
        try:
            return self._manifest(version)
        except Damaged as error:
            raise self._with_remedy(error) from None

    def outcome(self, version: str) -> dict[str, Any] | None:
        """What was recorded when the version was kept or rejected; None before."""
        path = self._place(version) / _OUTCOME
        try:
            return read_sealed(path) if path.exists() else None
        except Damaged as error:
            raise Damaged(f"{error}; put it back or remove it: it only records the decision") from None

    def rows(self, version: str | None = None) -> list[Row]:
        """The content of a version, oldest rows first; None: of the one that counts.

        Raises:
            ValueError: no such version, or damage anywhere in its chain.
        """
        version = self.head if version is None else version
        self._check_known(version)
        try:
            return self._content(version)
        except Damaged as error:
            raise self._with_remedy(error) from None

    def own_rows(self, version: str) -> list[Row]:
        """The rows that a version adds to its parent."""
        return self._shard(self.manifest(version))

    def append(self, rows: Sequence[Row], facts: Facts) -> str:
        """Writes the next version, whose parent is the one that counts; which one counts does not change.

        Raises:
            OSError: the folder cannot be written, or the disk is full; nothing half-written becomes visible.
        """
        self._prepare()
        parent, version = self.head, f"v{max(map(_number, self.versions()), default=0) + 1:04}"
        beside = self.folder / f".{version}.writing"
        try:
            beside.mkdir()
            self._write(beside, rows, facts, version, parent)
            beside.rename(self._place(version))
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        sync_folder(self.folder)
        return version

    def record_outcome(self, version: str, facts: Mapping[str, Any]) -> None:
        """Writes once what the gate decided, and the figures before and after that it found (JSON)."""
        path = self._place(version) / _OUTCOME
        assert not path.exists(), "a version is judged once"
        write_sealed(path, facts)

    def promote(self, version: str) -> None:
        """From now on this version counts.

        Raises:
            ValueError: no such version, or damage in its chain.
        """
        self.rows(version)
        seal = "" if version == EMPTY else self._manifest(version).seal
        write_sealed(self.folder / _HEAD, {"version": version, "manifest": seal})

    def rollback(self, version: str | None = None) -> str:
        """Goes back to a version, by default to the parent of the one that counts, which is returned. Nothing is
        deleted; a damaged pointer is mended where the version is named.

        Raises:
            ValueError: no such version, a damaged one, or nothing before it.
        """
        if version is None:
            head = self.head
            if head == EMPTY:
                raise ValueError(f"{self.folder} counts as empty already: there is nothing to roll back")
            version = self.manifest(head).parent
        self.promote(version)
        return version

    def discard_after(self, round: int) -> None:
        """Removes the versions of later rounds, as a killed round leaves them; goes back where one of them counts."""
        if not self.exists:
            return
        self._prepare()
        late = [version for version in self.versions() if self._is_later(version, round)]
        head = self.head
        while head in late:
            head = self.manifest(head).parent
        if head != self.head:
            self.promote(head)
        for version in reversed(late):  # children first: no version is ever without its parent
            doomed = self.folder / f".{version}.discarded"
            self._place(version).rename(doomed)
            shutil.rmtree(doomed)

    def verify(self) -> list[str]:
        """Everything that is wrong, every file read to its end; empty if the store is sound."""
        problems: list[str] = []
        with _noting(problems):
            _ = self.head
        for version in self.versions():
            with _noting(problems):
                self.rows(version)
            with _noting(problems):
                self.outcome(version)
        return list(dict.fromkeys(problems))

    def _prepare(self) -> None:
        """Makes the folder and its pointer, and removes what a killed writer left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in [*self.folder.glob(".*"), *self.folder.glob("v*/.*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not self.exists:
            write_sealed(self.folder / _HEAD, {"version": EMPTY, "manifest": ""})

    def _write(self, folder: Path, rows: Sequence[Row], facts: Facts, version: str, parent: str) -> None:
        shard = "".join(row.line() for row in rows).encode("ascii")
        with replacing(folder / _ROWS, "wb") as stream:
            stream.write(shard)
        Manifest(
            **{**asdict(facts), "removed": tuple(facts.removed)},
            version=version,
            parent=parent,
            parent_seal="" if parent == EMPTY else self._manifest(parent).seal,
            rows=len(rows),
            shard=hashlib.sha256(shard).hexdigest(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        ).write(folder)

    def _place(self, version: str) -> Path:
        return self.folder / version

    def _manifest(self, version: str) -> Manifest:
        return Manifest.read(self._place(version))

    def _content(self, version: str) -> list[Row]:
        rows: dict[str, Row] = {}
        for manifest in self._chain(version):
            for identity in manifest.removed:
                del rows[identity]
            rows.update((row.id, row) for row in self._shard(manifest))
        return [*rows.values()]

    def _chain(self, version: str) -> list[Manifest]:
        """A version's manifest and those of its ancestors, oldest first; each is the one that its child vouches for."""
        chain: list[Manifest] = []
        while version != EMPTY:
            manifest = self._manifest(version)
            if chain and manifest.seal != chain[-1].parent_seal:
                raise Damaged(f"{self._place(version)} is not the version that {chain[-1].version} was made from")
            chain.append(manifest)
            version = manifest.parent
        return chain[::-1]

    def _shard(self, manifest: Manifest) -> list[Row]:
        path = self._place(manifest.version) / _ROWS
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Damaged(f"{path} cannot be read: {error.strerror or error}") from error
        if hashlib.sha256(data).hexdigest() != manifest.shard:
            raise Damaged(f"{path} has been altered or cut: its digest differs from that in the manifest")
        return [Row.read(line) for line in data.splitlines()]

    def _is_later(self, version: str, round: int) -> bool:
        """A damaged manifest names no round: its version lies where it is, and whatever counts on it finds out."""
        try:
            return self._manifest(version).round > round
        except Damaged:
            return False

    def _check_known(self, version: str) -> None:
        if version != EMPTY and version not in self.versions():
            raise ValueError(
                f"{self.folder} has no version {version!r}; there is: {', '.join([EMPTY, *self.versions()])}"
            )

    def _with_remedy(self, error: Damaged) -> Damaged:
        """The error, and the newest version with a sound chain, to which the user can go back."""
        sound = next(filter(self._is_sound, reversed(self.versions())), EMPTY)
        loop = self.folder.absolute().parent.name
        which = sound if loop == "improve" else f"{sound} --folder {loop}"  # else it would be the method's store
        return Damaged(f"{error}; put the file back, or go back to a sound version: `eco store rollback RUN {which}`")

    def _is_sound(self, version: str) -> bool:
        try:
            self._content(version)
        except Damaged:
            return False
        return True


@contextmanager
def _noting(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except Damaged as error:
        problems.append(str(error))


def _number(version: str) -> int:
    return int(version[1:])
