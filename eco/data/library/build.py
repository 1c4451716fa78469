"""Builds a library: a recipe's documents into a folder that is there as a whole or not at all."""

import hashlib
import json
from pathlib import Path

from filelock import FileLock

from eco import plugins
from eco.data.library.folder import MANIFEST, Library, contents, is_of_a_library, open_library
from eco.files import replacing, replacing_folder
from eco.machine import cache_folder


def build(folder: Path, recipe: str, source: str, *, force: bool = False) -> tuple[Library, bool]:
    """The library that `recipe` makes of `source`, in `folder`, and whether it was written.

    One of the same digest that is already there is verified and left.

    Raises:
        ValueError: a recipe or source that is not there or malformed; a folder that holds another library or a damaged
            one, without `force`; a folder with files that no library has, always.
    """
    files = contents(plugins.find("data.library.recipes", recipe).collect(source))
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
    with FileLock(cache / f"library-{place}.lock"):
        if _stays(folder, json.loads(files[MANIFEST])["digest"], force):
            return open_library(folder), False
        try:
            with replacing_folder(folder) as beside:
                for name, content in files.items():
                    with replacing(beside / name, "wb") as stream:
                        stream.write(content)
        except OSError as error:
            raise ValueError(f"cannot write {folder}: {error}") from error
        return open_library(folder), True


def _stays(folder: Path, digest: str, force: bool) -> bool:
    """Whether the folder holds the library of this digest; raises where it may not be replaced."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder for the library")
    others = sorted(path.name for path in folder.iterdir() if path.is_dir() or not is_of_a_library(path.name))
    if others:
        raise ValueError(f"{folder} holds more than a library, such as {others[0]!r}; name another folder")
    if force or not any(folder.iterdir()):
        return False
    there = open_library(folder)
    if there.digest != digest:
        raise ValueError(f"{folder} holds another library ({there.name}, {there.digest[:12]}); --force replaces it")
    there.verify()
    return True
