"""What stands before the first round is the same for all arms of a seed, so the second one takes it from the first."""

import os
from pathlib import Path
from shutil import copyfile, copytree

from eco.files import replacing, sync_folder
from eco.improvement.head import HEAD, START
from eco.improvement.store.versions import VerifiedStore


def copy_start(source: Path, target: Path) -> None:
    """Takes what stands before the first round from a folder of the same settings, instead of computing it again.

    Raises:
        ValueError: the store of `source` is damaged.
    """
    (target / "attempts").mkdir(parents=True, exist_ok=True)
    _copy(source / "checkpoints/step_00000000", target / "checkpoints/step_00000000")
    store = VerifiedStore(source / "store")
    warmup = [version for version in store.versions() if store.manifest(version).round == 0]
    for version in warmup:
        _copy(source / "store" / version, target / "store" / version)
        VerifiedStore(target / "store").promote(version)
    for name in (START, HEAD):  # the head last: from here on the start counts
        with replacing(target / name, "wb") as file:
            file.write((source / START).read_bytes())


def _copy(source: Path, target: Path) -> None:
    """A folder, on the disk before the head that counts on it."""
    copytree(source, target, dirs_exist_ok=True, copy_function=_copy_file)
    sync_folder(target)
    sync_folder(target.parent)


def _copy_file(source: str, target: str) -> None:
    copyfile(source, target)
    with open(target, "rb") as file:
        os.fsync(file.fileno())
