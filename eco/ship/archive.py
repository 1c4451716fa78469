"""A bundle as NAME_model.tar.gz: equal bundles give equal archives, and opening one trusts nothing in it.

An archive holds plain files only, MANIFEST.json first, then what it names, in order of the names. Opening stops at the
first thing that is anything else, and reads no more bytes than the manifest accounts for.
"""

import gzip
import hashlib
import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from eco.files import replacing, replacing_folder
from eco.ship.manifest import MANIFEST, Damaged, Manifest, check_folder, parse

SUFFIX = "_model.tar.gz"

_TIME = 315_532_800
"""1980-01-01, the age of every file: that of the packing would make each archive another one."""

_LEVEL = 6
"""Of gzip, its usual one: of fp32 weights 93 % are left at any level (1: 92.9, 6: 92.7, 9: 92.7)."""

_MANIFEST_BYTES = 1 << 20
"""A manifest has about 150 bytes for each of some twenty files."""

_CHUNK_BYTES = 1 << 20


def write_archive(bundle: Path, path: Path) -> None:
    """Packs the bundle, which is checked before, under its folder's name; `path` is whole or not there at all.

    Raises:
        Damaged: the bundle is not what its manifest says.
    """
    names = [MANIFEST, *sorted(check_folder(bundle).files)]
    with (
        replacing(path, "wb") as stream,
        gzip.GzipFile("", "wb", _LEVEL, stream, mtime=0) as packed,
        tarfile.open(mode="w", fileobj=packed, format=tarfile.GNU_FORMAT) as archive,
    ):
        for name in names:
            member = tarfile.TarInfo(f"{bundle.name}/{name}")
            member.size, member.mtime, member.mode = (bundle / name).stat().st_size, _TIME, 0o644
            with open(bundle / name, "rb") as file:
                archive.addfile(member, file)


def open_archive(path: Path, folder: Path) -> Path:
    """Unpacks an archive into `folder` and returns the bundle's folder in it, all of whose files are proved.

    Raises:
        Damaged: it is cut off, has a changed byte, a missing or a further file, a link, a path out of the folder, or
            more bytes than its manifest says; the message names what. `folder` holds nothing of it then.
        ValueError: there is no such file, not the room for it, or a folder of the bundle's name already.
    """
    if not path.is_file():
        raise ValueError(f"no archive at {path}")
    with _explaining(path), open(path, "rb") as raw, gzip.GzipFile(fileobj=raw) as plain:
        limited = _Limited(plain, _MANIFEST_BYTES)
        with tarfile.open(mode="r|", fileobj=limited) as archive:
            members = iter(archive)
            name, manifest, content = _first(archive, members)
            if (folder / name).exists():
                raise ValueError(f"{folder / name} is there already; remove it, or unpack somewhere else")
            room = shutil.disk_usage(folder).free
            if manifest.bytes > room:
                raise ValueError(f"{path} unpacks to {manifest.bytes / 1e6:.0f} MB, and {folder} has {room / 1e6:.0f}")
            limited.left += manifest.bytes + 2 * tarfile.BLOCKSIZE * len(manifest.files)  # a header, and filling up
            with replacing_folder(folder / name) as building:
                (building / MANIFEST).write_bytes(content)
                _unpack(archive, members, manifest, name, building)
                while limited.read(_CHUNK_BYTES):  # to the end, where gzip keeps the checksum of it all
                    pass
    return folder / name


class _Limited(io.RawIOBase):
    """A stream that gives at most `left` bytes more: what is packed small must not unpack to more than is stated."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, left: int) -> None:
        self._stream = stream
        self.left = left

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise Damaged(f"it unpacks to more than its {MANIFEST} says")
        return data


def _first(archive: tarfile.TarFile, members: Iterator[tarfile.TarInfo]) -> tuple[str, Manifest, bytes]:
    """The name of the bundle, its manifest, and that as it stands in the archive."""
    member = next(members, None)
    if member is None:
        raise Damaged("it is empty")
    name, slash, rest = member.name.partition("/")
    if not slash or rest != MANIFEST or name in ("", ".", "..") or "\\" in name:
        raise Damaged(f"its first file is {member.name!r} instead of NAME/{MANIFEST}")
    stream = archive.extractfile(_plain(member, member.name))
    assert stream is not None, "a plain file"
    content = stream.read(_MANIFEST_BYTES)
    return name, parse(content), content


def _unpack(
    archive: tarfile.TarFile, members: Iterator[tarfile.TarInfo], manifest: Manifest, name: str, folder: Path
) -> None:
    """Writes the files that the manifest names, and proves each while it is written."""
    missing = dict(manifest.files)
    for member in members:
        inner = member.name.removeprefix(f"{name}/")
        file = missing.pop(_plain(member, inner).name.removeprefix(f"{name}/"), None)
        if file is None or inner == member.name:
            raise Damaged(f"it holds {member.name!r}, which is not in its {MANIFEST}, or there twice")
        if member.size != file.size:
            raise Damaged(f"{inner} has {member.size} bytes instead of {file.size}")
        stream = archive.extractfile(member)
        assert stream is not None, "a plain file"
        (folder / inner).parent.mkdir(parents=True, exist_ok=True)
        if _copy(stream, folder / inner) != file.sha256:
            raise Damaged(f"{inner} has been altered (its SHA-256 differs)")
    if missing:
        raise Damaged(f"it lacks {', '.join(missing)}")


def _plain(member: tarfile.TarInfo, name: str) -> tarfile.TarInfo:
    """The member as tarfile's filter for data lets it pass, if it is a plain file."""
    if not member.isreg() or member.issparse():
        raise Damaged(f"{name!r} is a link or another thing that is no plain file")
    return tarfile.data_filter(member, os.curdir)


def _copy(stream: IO[bytes], path: Path) -> str:
    """SHA-256 of what was written."""
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Whatever the libraries call a damaged archive, it is named, and is one kind of error."""
    try:
        yield
    except Damaged as error:
        raise Damaged(f"{path} is damaged: {error}") from error
    except (EOFError, tarfile.TarError, gzip.BadGzipFile, zlib.error) as error:
        raise Damaged(f"{path} is damaged or cut off: {error}") from error
