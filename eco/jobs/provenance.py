"""What a run was trained on, as a bundle tells it: names without folders of this machine, sources, licence, sizes."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from eco.data.corpus import source_of
from eco.data.library.folder import open_library
from eco.data.library.metadata import Metadata
from eco.data.prepare import Report, TextConfig

PYTHON = "PSF License Agreement of Python, version 2"


def provenance(config: TextConfig, report: Report) -> dict[str, Any]:
    """For the facts of a bundle: `names`, `sources` and `licence` in words, and the numbers of the report."""
    locations = [location for entry in config.entries() for location in entry.paths]
    told = [metadata for location in locations for metadata in _library(location)]
    licences = {PYTHON} if any(source_of(location)[0] == "stdlib" for location in locations) else set()
    licences |= {metadata.license for metadata in told}
    return {
        "names": ", ".join(map(bare, locations)),
        "sources": _listed(metadata.source for metadata in told),
        "licence": _listed(licences),
        "documents": report.documents,
        "held_out_documents": report.held_out_documents,
        "bytes": report.bytes,
        "training_tokens": report.training_tokens,
        "held_out_tokens": report.held_out_tokens,
    }


def without_folders(config: TextConfig) -> TextConfig:
    """The same data by their bare names, as the recipe in a bundle has them."""
    mix = tuple(entry.model_copy(update={"paths": tuple(map(bare, entry.paths))}) for entry in config.mix)
    return config.model_copy(update={"paths": tuple(map(bare, config.paths)), "mix": mix})


def bare(location: str) -> str:
    """An entry of `data.paths` without the folders above it."""
    rest = source_of(location)[1]
    return location.removesuffix(rest) + (Path(rest).name if os.path.isabs(rest) else rest)


def _library(location: str) -> Iterator[Metadata]:
    """What a library says of each of its documents; nothing where the data are none."""
    source, rest = source_of(location)
    if source == "library":
        library = open_library(Path(rest).expanduser())
        yield from (library.read(item).metadata for item in library.items)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(set(filter(None, words))))
