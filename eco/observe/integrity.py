"""`integrity_manifest.json`: digests of what a run must not change under way, taken at its start and checked later."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eco.files import sha256, write_json
from eco.observe.run import RunPaths


class Integrity:
    """The manifest of one run.

    recipe: the resolved recipe as plain data; seeds: name -> seed.
    conditions: name -> what else the bits of the result depend on, such as the text and the kernels in use.
    """

    def __init__(
        self,
        run: RunPaths,
        recipe: Mapping[str, Any],
        seeds: Mapping[str, int],
        conditions: Mapping[str, str] | None = None,
    ) -> None:
        self._run = run
        self._config_hash = recipe_digest(recipe)
        self._seeds = dict(seeds)
        self._conditions = dict(conditions or {})

    def write(self, tracked: Iterable[Path]) -> None:
        """Records the recipe's digest, the seeds, and path, SHA-256 and size in bytes of each tracked file.

        Files inside the run directory are named relative to it, so a run that was moved as a whole still verifies.
        """
        files = [_entry(self._run.path, path) for path in tracked]
        facts = {"config_hash": self._config_hash, "seeds": self._seeds, "conditions": self._conditions}
        write_json(self._run.integrity_manifest, facts | {"tracked_files": files})

    def differences(self) -> list[str]:
        """What is no longer as the manifest says, one sentence each; none is `integrity_ok` = 1.

        To be called at resume and at the end.
        """
        path = self._run.integrity_manifest
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            config_hash, seeds, files = manifest["config_hash"], manifest["seeds"], manifest["tracked_files"]
            conditions = manifest["conditions"]
            found = [sentence for entry in files for sentence in _differences(self._run.path, entry)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return [f"{path.name} cannot be read: {error}"]
        if config_hash != self._config_hash:
            found.append("the recipe is not the one that the run started with")
        if seeds != self._seeds:
            found.append(f"the seeds were {seeds} and are {self._seeds}")
        for name, now in self._conditions.items():
            if conditions.get(name) != now:
                found.append(f"{name} was {conditions.get(name)} and is {now}")
        return found


def recipe_digest(recipe: Mapping[str, Any]) -> str:
    """SHA-256 of a resolved recipe (plain data), independent of the order of its keys."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _entry(root: Path, path: Path) -> dict[str, Any]:
    full = path.absolute()
    name = full.relative_to(root) if full.is_relative_to(root) else full
    return {"path": name.as_posix(), "sha256": sha256(full), "size": full.stat().st_size}


def _differences(root: Path, entry: Mapping[str, Any]) -> list[str]:
    name = entry["path"]
    path = root / name
    if not path.is_file():
        return [f"{name} is gone"]
    size = path.stat().st_size
    if size != entry["size"]:
        return [f"{name} had {entry['size']} bytes and has {size}"]
    if sha256(path) != entry["sha256"]:
        return [f"{name} has other content of the same size"]
    return []
