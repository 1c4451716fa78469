"""The manifest of a version: what it came from, what was counted on the way, and the digest of its rows."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from eco.improvement.store.sealed import read_sealed, seal_of, write_sealed

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Facts:
    """What the caller knows of a version.

    round: of the loop. model, tokenizer, config: digests of what drew the rows.
    seeds: name -> seed. funnel: stage of the admission -> how many attempts came so far or were stopped there.
    removed: ids of the parent's rows that are no longer in this version.
    """

    round: int
    model: str
    tokenizer: str
    config: str
    seeds: Mapping[str, int]
    funnel: Mapping[str, int]
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest(Facts):
    """version, parent: such as v0002 and v0001. parent_seal: of the parent's manifest, so that a version vouches for
    all that it is made of. rows, shard: number and SHA-256 of its own rows. created: ISO 8601, UTC."""

    version: str = ""
    parent: str = ""
    parent_seal: str = ""
    rows: int = 0
    shard: str = ""
    created: str = ""

    @property
    def seal(self) -> str:
        return seal_of(asdict(self))

    def write(self, folder: Path) -> None:
        write_sealed(folder / MANIFEST, asdict(self))

    @staticmethod
    def read(folder: Path) -> "Manifest":
        """
        Raises:
            Damaged: see `read_sealed`.
        """
        body = read_sealed(folder / MANIFEST)
        return Manifest(**body | {"removed": tuple(body["removed"])})
