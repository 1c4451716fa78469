"""Local files: a file, a folder (searched to any depth, hidden and `__pycache__` folders left out) or a glob."""

import glob
from collections.abc import Iterator
from pathlib import Path

from eco.data.readers import SUFFIXES, can_read, files_below, read_file
from eco.data.sources.contract import SourceOptions


def documents(location: str, options: SourceOptions) -> Iterator[str]:
    """The documents of every file that `location` names, files ordered by path.

    Raises:
        ValueError: nothing is there, or nothing that can be read; a malformed file.
    """
    for path in _find(location):
        yield from read_file(path, options)


def _find(location: str) -> list[Path]:
    path = Path(location).expanduser()
    if path.exists():
        found = [path]
    else:
        found = [Path(match) for match in glob.glob(str(path), recursive=True)]
    if not found:
        what = "no file matches" if glob.has_magic(location) else "no such file or folder:"
        raise ValueError(f"data.paths: {what} {location!r}")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"data.paths: {location!r} is neither a file nor a folder")
    files = {file for start in found for file in (files_below(start) if start.is_dir() else [start])}
    readable = sorted(file for file in files if can_read(file))
    if not readable:
        raise ValueError(f"data.paths: {location!r} holds {len(files)} files, none ending in {', '.join(SUFFIXES)}")
    return readable
