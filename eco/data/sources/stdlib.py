"""The Python source of the running interpreter's own standard library, without its tests: always there, about 12 MB."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from eco.data.readers import files_below, read_file
from eco.data.sources.contract import SourceOptions

_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test"}


def documents(location: str, options: SourceOptions) -> Iterator[str]:
    """One document per file, ordered by path.

    Raises:
        ValueError: something follows `stdlib:`, or this interpreter has no library as files.
    """
    if location:
        raise ValueError(f"data.paths: 'stdlib:' takes nothing behind the colon, but {location!r} is there")
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(file for file in files_below(root, without=_NOT_LIBRARY) if file.suffix == ".py")
    # _sysconfigdata_*.py is not library but the build settings of this machine.
    library = [file for file in files if not file.name.startswith("_sysconfigdata")]
    if not library:
        raise ValueError(f"data.paths: this interpreter keeps no standard library as .py files in {root}; give paths")
    for file in library:
        yield from read_file(file, options)
