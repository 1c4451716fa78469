"""Checkpoints: a directory `step_00000130/` of safetensors and JSON that is wholly there or not there at all.

It is written beside its place, every file is synced to the disk, and a rename makes it visible. `manifest.json` holds
size and digest of each file, so that damage is found before it is used, and the facts that a model must share to fit.
A damaged checkpoint is moved to `quarantine/` and the one before it is used. One that does not fit the recipe is an
error that names the difference: it is sound, and someone wants it.

    step_00000130/model.safetensors       the tensors of the part "model", and so on for each part that has any
    step_00000130/state.json              everything that is no tensor, with references to the tensors
    step_00000130/manifest.json           format, step, fit, files; carries a digest of itself
    best.json                             which of them is best
    quarantine/step_00000120/REASON.txt   what is wrong with it

One process writes; any number may read meanwhile.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from eco.files import sync_folder, write_json
from eco.training import tree
from eco.training.manifest import Damaged, Manifest, check_fit, damages, describe

STATE = "state.json"
_PREFIX, _SAVING, _REPLACED = "step_", ".saving-", ".replaced-"


@dataclass(frozen=True)
class Entry:
    """One checkpoint on the disk, as its name and size tell; nothing is verified."""

    step: int
    path: Path
    bytes: int
    best: bool


@dataclass(frozen=True)
class Loaded:
    """The content of a verified checkpoint.

    parts: as given to `save`. CPU tensors, memory-mapped copy-on-write: they cost memory when they are touched, and
        writing to one changes neither the file nor another process.
    """

    step: int
    path: Path
    parts: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    directory: made when the first one is saved.
    keep: newest ones to keep; the best one stays beside them.
    quarantined: damaged ones that the latest `load_newest` moved aside.
    """

    def __init__(self, directory: Path, keep: int = 3) -> None:
        assert keep >= 1, "the newest checkpoint is never removed"
        self.directory = directory
        self.keep = keep
        self.quarantined = 0

    def save(
        self, step: int, parts: Mapping[str, Any], *, fit: Mapping[str, Any] | None = None, best: bool = False
    ) -> Path:
        """Writes a checkpoint, replacing one of the same step; then removes those beyond `keep`.

        parts: name -> nested state, see `tree.split`; tensors are saved once however often they occur within a part.
        fit: what a run that loads this must have in common with it (JSON), such as the model's family and shape.
        best: from now on this is the best one.

        Raises:
            OSError: no space left (errno ENOSPC) or another error of the file system. The checkpoints before it stay.
            ValueError: a part holds something that cannot be stored.
        """
        target = self.directory / f"{_PREFIX}{step:08d}"
        self.directory.mkdir(parents=True, exist_ok=True)
        self._clean()
        beside = self.directory / f"{_SAVING}{target.name}"
        with _explaining(beside, step):
            beside.mkdir()
            self._write(beside, step, parts, dict(fit or {}))
            if best:  # before the rename: a kill between the two leads to this step, and this save, once more
                write_json(self.directory / "best.json", {"step": step, "checkpoint": target.name})
            self._move_into_place(beside, target)
        self._prune()
        return target

    def entries(self) -> list[Entry]:
        """All checkpoints, oldest first."""
        best = self._best_name()
        found = []
        for path in self.directory.glob(f"{_PREFIX}*"):
            number = path.name.removeprefix(_PREFIX)
            with suppress(FileNotFoundError):  # the training process may remove it at this very moment
                if number.isdecimal() and path.is_dir():
                    size = sum(file.stat().st_size for file in path.iterdir())
                    found.append(Entry(int(number), path, size, path.name == best))
        return sorted(found, key=lambda entry: entry.step)

    def best(self) -> Entry | None:
        """The best checkpoint, if one was saved as such and still exists."""
        return next((entry for entry in self.entries() if entry.best), None)

    def verify(self, path: Path) -> list[str]:
        """Everything that is wrong with the files of a checkpoint, each file read to its end; empty if it is sound."""
        try:
            return damages(path, Manifest.read(path))
        except Damaged as error:
            return [str(error)]

    def load(self, path: Path, fit: Mapping[str, Any] | None = None) -> Loaded:
        """The content of one checkpoint.

        fit: see `save`; None asks for nothing.

        Raises:
            ValueError: it does not exist, is damaged (`Damaged`), or does not fit (the message names each difference).
        """
        if not path.is_dir():
            raise ValueError(f"no checkpoint at {path}; there is: {', '.join(e.path.name for e in self.entries())}")
        manifest = Manifest.read(path)
        if fit is not None:
            check_fit(path, manifest.fit, fit)
        if problems := damages(path, manifest):
            raise Damaged(f"checkpoint {path} is damaged: {'; '.join(problems)}")
        structures = json.loads((path / STATE).read_text("utf-8"))
        parts = {name: tree.join(structure, _tensors_of(path, name)) for name, structure in structures.items()}
        return Loaded(manifest.step, path, parts)

    def load_newest(self, fit: Mapping[str, Any] | None = None) -> Loaded | None:
        """The newest sound checkpoint; the damaged ones above it go to quarantine. None if there is none at all.

        For the process that writes; the others take `entries` and `load`.

        Raises:
            ValueError: the newest sound one does not fit; nothing is moved for that.
        """
        self._clean()
        self.quarantined = 0
        for entry in reversed(self.entries()):
            try:
                return self.load(entry.path, fit)
            except Damaged as error:
                self._quarantine(entry.path, str(error))
                self.quarantined += 1
        return None

    def remove(self, entry: Entry) -> None:
        """Out of sight by one rename first: a half-removed checkpoint must not look like a damaged one."""
        doomed = self.directory / f"{_SAVING}{entry.path.name}"
        entry.path.rename(doomed)
        shutil.rmtree(doomed)

    def _write(self, folder: Path, step: int, parts: Mapping[str, Any], fit: dict[str, Any]) -> None:
        structures = {}
        files = []
        for name, value in parts.items():
            structures[name], tensors = tree.split(value)
            if tensors:
                save_file(tree.separate(tensors), folder / f"{name}.safetensors")
                files.append(describe(folder / f"{name}.safetensors"))
        write_json(folder / STATE, structures)
        files.append(describe(folder / STATE))
        Manifest(step, fit, tuple(files)).write(folder)

    def _move_into_place(self, beside: Path, target: Path) -> None:
        """The rename that makes a checkpoint visible; an older one of the same step steps aside for that moment."""
        replaced = self.directory / f"{_REPLACED}{target.name}"
        if target.exists():
            target.rename(replaced)
        beside.rename(target)
        sync_folder(self.directory)
        shutil.rmtree(replaced, ignore_errors=True)

    def _clean(self) -> None:
        """Removes what a killed save left, and brings back a checkpoint that had stepped aside for it."""
        for path in self.directory.glob(f"{_REPLACED}*"):
            original = path.with_name(path.name.removeprefix(_REPLACED))
            shutil.rmtree(path) if original.exists() else path.rename(original)
        for path in self.directory.glob(f"{_SAVING}*"):
            shutil.rmtree(path)
        for path in self.directory.glob(".best.json.*.tmp"):
            path.unlink()

    def _prune(self) -> None:
        for entry in self.entries()[: -self.keep]:
            if not entry.best:
                self.remove(entry)

    def _quarantine(self, path: Path, reason: str) -> None:
        folder = self.directory / "quarantine"
        folder.mkdir(exist_ok=True)
        place = folder / path.name
        number = 1
        while place.exists():
            number += 1
            place = folder / f"{path.name}.{number}"
        path.rename(place)
        (place / "REASON.txt").write_text(reason + "\n", "utf-8")
        sync_folder(self.directory)

    def _best_name(self) -> str | None:
        try:
            return str(json.loads((self.directory / "best.json").read_text("utf-8"))["checkpoint"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _tensors_of(folder: Path, part: str) -> dict[str, Any]:
    file = folder / f"{part}.safetensors"
    return load_file(file) if file.exists() else {}


@contextmanager
def _explaining(beside: Path, step: int) -> Iterator[None]:
    """Whatever goes wrong in the block, nothing partial stays, and a full disk is called by its name."""
    try:
        yield
    except BaseException as error:
        shutil.rmtree(beside, ignore_errors=True)
        if not _is_disk_full(error):
            raise
        free = shutil.disk_usage(beside.parent).free
        raise OSError(
            errno.ENOSPC,
            f"the disk is full: no room for the checkpoint of step {step} ({free / 1e6:.0f} MB free in "
            f"{beside.parent}). The checkpoints before it are untouched; free some space, lower --max-checkpoints, or "
            "move them to another disk and name it by --checkpoint-dir, then resume",
        ) from error


def _is_disk_full(error: BaseException) -> bool:
    """The safetensors writer reports the system's error only in words."""
    if isinstance(error, SafetensorError):
        return os.strerror(errno.ENOSPC) in str(error) or os.strerror(errno.EDQUOT) in str(error)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
