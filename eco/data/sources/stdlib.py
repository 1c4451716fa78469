"""The Python source of the running interpreter's own standard library: always there, about 10 MB.

Left out are its tests, and two folders of tables (code pages, help texts) that are Python by name only: a tenth of the
bytes, of which a small model would otherwise write little else."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from eco.data.readers import files_below, read_file
from eco.data.sources.contract import SourceOptions

_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}


def documents(location: str, options: SourceOptions) -> Iterator[str]:
    """One document per file, ordered by path.

    Raises:
        ValueError: something follows `stdlib:`, or this interpreter has no library as files.
    """
    if location:
        raise ValueError(f"data.paths: 'stdlib:' takes nothing behind the colon, but {location!r} is there")
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(file for file in files_below(root, without=_LEFT_OUT) if file.suffix == ".py")
    # _sysconfigdata_*.py is not library but the build settings of this machine.
    library = [file for file in files if not file.name.startswith("_sysconfigdata")]
    if not library:
        raise ValueError(f"data.paths: this interpreter keeps no standard library as .py files in {root}; give paths")
    for file in library:
        yield from read_file(file, options)
