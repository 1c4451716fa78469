"""`integrity_manifest.json`: digests of what a run must not change under way, taken at its start and checked later."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eco.files import write_json
from eco.observe.run import RunPaths


def recipe_digest(recipe: Mapping[str, Any]) -> str:
    """SHA-256 of a resolved recipe (plain data), independent of the order of its keys."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(
    run: RunPaths, recipe: Mapping[str, Any], seeds: Mapping[str, int], tracked: Iterable[Path]
) -> None:
    """Records the recipe's digest, the seeds, and path, SHA-256 and size in bytes of each tracked file.

    Files inside the run directory are named relative to it, so a run that was moved as a whole still verifies.
    """
    manifest = {
        "config_hash": recipe_digest(recipe),
        "seeds": dict(seeds),
        "tracked_files": [_entry(run.path, path) for path in tracked],
    }
    write_json(run.integrity_manifest, manifest)


def verify_manifest(run: RunPaths, recipe: Mapping[str, Any], seeds: Mapping[str, int]) -> list[str]:
    """What differs from the manifest, one sentence each; an empty list is `integrity_ok` = 1.

    To be called at resume and at the end.
    """
    try:
        manifest = json.loads(run.integrity_manifest.read_text(encoding="utf-8"))
        recorded = {entry["path"]: entry for entry in manifest["tracked_files"]}
        config_hash, recorded_seeds = manifest["config_hash"], manifest["seeds"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{run.integrity_manifest} cannot be read: {error}"]
    differences = []
    if config_hash != recipe_digest(recipe):
        differences.append("the recipe is not the one that the run started with")
    if recorded_seeds != dict(seeds):
        differences.append(f"the seeds were {recorded_seeds} and are {dict(seeds)}")
    for path, entry in recorded.items():
        differences += _file_differences(run.path, path, entry)
    return differences


def _entry(root: Path, path: Path) -> dict[str, Any]:
    full = path.absolute()
    name = full.relative_to(root) if full.is_relative_to(root) else full
    return {"path": name.as_posix(), "sha256": _sha256(full), "size": full.stat().st_size}


def _file_differences(root: Path, name: str, entry: Mapping[str, Any]) -> list[str]:
    path = root / name
    if not path.is_file():
        return [f"{name} is gone"]
    size = path.stat().st_size
    if size != entry["size"]:
        return [f"{name} had {entry['size']} bytes and has {size}"]
    if _sha256(path) != entry["sha256"]:
        return [f"{name} has other content of the same size"]
    return []


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
