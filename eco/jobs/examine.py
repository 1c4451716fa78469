"""Checks one packed model, in a process that knows nothing else: `eco.jobs.validate` starts it.

Its arguments are an archive or a bundle, an empty folder, and the file for its findings.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import eco
from eco import machine
from eco.files import write_json
from eco.jobs.load import load_packed
from eco.ship.archive import open_archive
from eco.ship.bundle import HELD_OUT, PROBE, Facts, read_tensors
from eco.ship.checks import CHECKS, Check, Packed
from eco.ship.manifest import check_folder
from eco.ship.probe import Probe, machine_kind


def main(packed: str, folder: str, findings: str) -> None:
    """Writes `name`, `made_with`, `validated_with` and `checks`; the first two are empty where no bundle was found."""
    machine.prepare()
    checks, facts = examine(Path(packed), Path(folder))
    found = {"name": facts.name, "made_with": facts.made_with} if facts else {"name": "", "made_with": {}}
    here = {"eco": eco.__version__, "machine": machine_kind()}
    write_json(Path(findings), {**found, "validated_with": here, "checks": [asdict(check) for check in checks]})


def examine(packed: Path, folder: Path) -> tuple[list[Check], Facts | None]:
    """All checks in order; what cannot be opened or loaded has no others. An archive is unpacked into `folder`."""
    try:
        bundle = packed if packed.is_dir() else open_archive(packed, folder)
        manifest = check_folder(bundle)
        facts = Facts.read(bundle)
    except ValueError as error:
        return [Check("manifest", False, str(error))], None
    size = manifest.bytes
    sound = Check("manifest", True, f"{len(manifest.files)} files, {size / 1e6:.1f} MB", {"bytes": size})
    try:
        loaded = _load(bundle, facts)
    except Exception as error:  # whatever it is, it is what is wrong with this bundle
        return [sound, Check("loads", False, _told(error))], facts
    return [sound, *(_safely(name, check, loaded) for name, check in CHECKS.items())], facts


def _load(bundle: Path, facts: Facts) -> Packed:
    trained = load_packed(bundle, "cpu")
    probe = Probe.from_tensors(read_tensors(bundle / PROBE))
    return Packed(trained.model, trained.tokenizer, facts, probe, read_tensors(bundle / HELD_OUT))


def _safely(name: str, check: Callable[[Packed], Check], packed: Packed) -> Check:
    """One that raises has failed, and the others go on."""
    try:
        return check(packed)
    except Exception as error:
        return Check(name, False, _told(error))


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
