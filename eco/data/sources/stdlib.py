"""The Python source of the running interpreter's own standard library, without its tests: always there, about 12 MB."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from eco.data.readers import read_file
from eco.data.sources.contract import SourceOptions

_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def documents(location: str, options: SourceOptions) -> Iterator[str]:
    """One document per file, ordered by path.

    Raises:
        ValueError: something follows `stdlib:`, or this interpreter has no library as files.
    """
    if location:
        raise ValueError(f"data.paths: 'stdlib:' takes nothing behind the colon, but {location!r} is there")
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    # _sysconfigdata_*.py is not library but the build settings of this machine.
    library = [f for f in files if not _NOT_LIBRARY & set(f.parts) and not f.name.startswith("_sysconfigdata")]
    if not library:
        raise ValueError(f"data.paths: this interpreter keeps no standard library as .py files in {root}; give paths")
    for file in library:
        yield from read_file(root / file, options)
