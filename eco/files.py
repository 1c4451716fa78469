"""Files and folders that are either wholly there or not there: write beside, fsync, rename."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path` and moves it over `path` once the block ended without an error.

    A reader sees the old content or the new one, never a part; after a crash the temporary file may stay, named
    `.NAME.PID.tmp`. Text is UTF-8.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Gives an empty folder beside `folder`, and moves it in its place once the block ended without an error.

    After a crash it may stay, named `.NAME.building`, until the next use. The block brings its files to the disk, and
    the caller sees to it that no other process writes the same folder.
    """
    beside = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed
    beside.mkdir(parents=True)
    try:
        yield beside
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes strict, indented JSON atomically (NaN and infinity are refused by the encoder with ValueError)."""
    with replacing(path) as stream:
        json.dump(value, stream, indent=2, allow_nan=False, sort_keys=False)
        stream.write("\n")


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Makes a rename inside `folder` survive a power cut (no effect where folders cannot be opened, as on Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
