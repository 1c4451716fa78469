"""What stands before the first round is the same for all arms of a seed, so the second one takes it from the first."""

from pathlib import Path
from shutil import copytree

from eco.files import replacing
from eco.improve.head import HEAD, START
from eco.improve.store.versions import VerifiedStore


def copy_start(source: Path, target: Path) -> None:
    """Takes what stands before the first round from a folder of the same settings, instead of computing it again.

    Raises:
        ValueError: the store of `source` is damaged.
    """
    (target / "attempts").mkdir(parents=True, exist_ok=True)
    copytree(source / "checkpoints/step_00000000", target / "checkpoints/step_00000000", dirs_exist_ok=True)
    store = VerifiedStore(source / "store")
    warmup = [version for version in store.versions() if store.manifest(version).round == 0]
    for version in warmup:
        copytree(source / "store" / version, target / "store" / version, dirs_exist_ok=True)
        VerifiedStore(target / "store").promote(version)
    for name in (START, HEAD):  # the head last: from here on the start counts
        with replacing(target / name, "wb") as file:
            file.write((source / START).read_bytes())
