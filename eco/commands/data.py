"""`eco data`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro

from eco import plugins
from eco.commands.arguments import print_json, read
from eco.data.library.build import build


@dataclass(frozen=True)
class Arguments:
    """Build a library: a folder of documents with metadata, checksums and a manifest.

    build-corpus DIR --source PATH: each .txt or .md file below PATH is a document, a .json of the same name its
    metadata. --recipe kjv: the 66 books of the King James Version, from a folder or an address that has kjv.txt and
    kjv-refs.txt. Train on it with --data.paths library:DIR.
    """

    action: tyro.conf.Positional[Literal["build-corpus"]]
    source: str
    """What the library is built from: a file, a folder, for some recipes an http, https or file address."""
    folder: tyro.conf.Positional[str] = ""
    """Where the library goes; the recipe kjv has a name of its own for it."""
    recipe: str = "files"
    """How the source becomes documents: files, or kjv."""
    force: bool = False
    """Replace another library, or a damaged one, that lies there."""
    json: bool = False
    """Print JSON instead of text."""


def run(words: list[str]) -> int:
    arguments = read(Arguments, words, "data")
    folder = arguments.folder or plugins.find("data.library.recipes", arguments.recipe).FOLDER
    if not folder:
        raise ValueError(f"where to? `eco data build-corpus DIR --source {arguments.source}`")
    library, written = build(Path(folder).expanduser(), arguments.recipe, arguments.source, force=arguments.force)
    units = sum(item.units for item in library.items)
    size = sum(item.bytes for item in library.items)
    if arguments.json:
        facts = {"folder": str(library.folder.resolve()), "name": library.name, "written": written}
        counts = {"documents": len(library.items), "units": units, "bytes": size, "digest": library.digest}
        print_json({**facts, **counts, "categories": library.categories, "items": [*map(asdict, library.items)]})
        return 0
    print(f"{library.folder}: {library.name}, {'built' if written else 'already there, and whole'}")
    print(f"{len(library.items)} documents, {units} units, {size} bytes")
    for category in library.categories:
        inside = [item for item in library.items if item.category == category]
        cut, share = sum(item.units for item in inside), sum(item.bytes for item in inside) / size
        print(f"  {category}: {len(inside)} documents, {cut} units, {share:.1%} of the text")
    print(f"SHA-256 {library.digest}")
    return 0
