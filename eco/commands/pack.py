"""`eco pack RUN`."""

from dataclasses import dataclass

import tyro

from eco.commands.arguments import print_json, read
from eco.files import sha256
from eco.jobs.pack import DOWNLOADS, pack
from eco.ship.instructions import INSTRUCTIONS


@dataclass(frozen=True)
class Arguments:
    """Pack the model of a run as NAME_model.tar.gz, with its card, its curves and what its validation needs."""

    run: tyro.conf.Positional[str]
    """The run directory."""
    to: str = DOWNLOADS
    """The folder for the archive."""
    checkpoint: str = "best"
    """Which weights: best, last, or a step."""
    json: bool = False
    """Print JSON."""


def run(words: list[str]) -> int:
    arguments = read(Arguments, words, "pack")
    archive = pack(arguments.run, arguments.to, arguments.checkpoint)
    size = archive.stat().st_size
    if arguments.json:
        print_json({"archive": str(archive), "bytes": size, "sha256": sha256(archive)})
        return 0
    print(f"{archive}  {size / 1e6:.1f} MB\n{archive.with_name(INSTRUCTIONS)} says how to check and use it")
    return 0
