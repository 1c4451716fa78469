"""`eco store`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eco.commands.arguments import print_json, read
from eco.config import absolute
from eco.files import replacing
from eco.improvement.store.row import Row
from eco.improvement.store.versions import EMPTY, VerifiedStore
from eco.observe.run import RunDirectory, existing_run

EXAMPLES = 3
"""Rows of a version that `show` prints."""


@dataclass(frozen=True)
class Arguments:
    """Show and move what a run has learnt from: the versions of its verified store.

    list RUN: all versions, every file verified. show RUN [VERSION]: where a version came from,
    and some of its rows. diff RUN OLD NEW: the rows that differ. rollback RUN [VERSION]: go back, by default by one
    version. export RUN FILE: the rows that count, as JSON lines.
    """

    action: tyro.conf.Positional[Literal["list", "show", "diff", "rollback", "export"]]
    run: tyro.conf.Positional[str]
    """The run directory."""
    rest: tyro.conf.Positional[tuple[str, ...]] = ()
    """Versions, such as v0002, or the file to export to."""
    folder: str = "improve"
    """Folder of the loop in the run directory; that of a control is called by its name, as improve-random-reward."""
    json: bool = False
    """Print JSON instead of text."""


def run(words: list[str]) -> int:
    arguments = read(Arguments, words, "store")
    path = existing_run(arguments.run).path / arguments.folder / "store"
    store = VerifiedStore(path)
    if not store.exists:
        raise ValueError(f"{path} is no store yet; `eco improve {arguments.run}` makes one")
    actions = {"list": _list, "show": _show, "diff": _diff, "rollback": _rollback, "export": _export}
    return actions[arguments.action](store, arguments)


def _list(store: VerifiedStore, arguments: Arguments) -> int:
    if problems := store.verify():
        raise ValueError("\n".join(problems))
    counting = _chain(store)
    versions = [_told(store, version) | {"counts": version in counting} for version in store.versions()]
    if arguments.json:
        print_json({"head": store.head, "versions": versions})
        return 0
    table = Table("version", "parent", "round", "added", "removed", "rows", "created", "", box=None)
    for row in versions:
        cells = [row[name] for name in ("version", "parent", "round", "added", "removed", "rows", "created")]
        state = "HEAD" if row["version"] == store.head else "" if row["counts"] else "does not count"
        table.add_row(*(escape(str(cell)) for cell in cells), state)
    Console(soft_wrap=True).print(table)
    return 0


def _show(store: VerifiedStore, arguments: Arguments) -> int:
    (version,) = _versions(arguments, at_most=1) or [store.head]
    total = len(store.rows(version))
    facts = asdict(store.manifest(version)) if version in store.versions() else {"version": version}
    facts |= {"total": total, "outcome": store.outcome(version)}
    rows = store.own_rows(version)[:EXAMPLES] if version in store.versions() else []
    if arguments.json:
        print_json(facts | {"examples": [asdict(row) for row in rows]})
        return 0
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), escape(_shown(value)))
    Console().print(table)
    for row in rows:
        print(f"\n{_safe(row.task)}  {row.source}  tier {row.tier}\n{_safe(row.document)}")
    return 0


def _diff(store: VerifiedStore, arguments: Arguments) -> int:
    versions = _versions(arguments, at_most=2)
    if len(versions) != 2:
        raise ValueError(f"diff takes two versions, as in `eco store diff {arguments.run} v0001 v0002`")
    old, new = ({row.id: row for row in store.rows(version)} for version in versions)
    added = [row for identity, row in new.items() if identity not in old]
    removed = [row for identity, row in old.items() if identity not in new]
    if arguments.json:
        print_json({"added": [asdict(row) for row in added], "removed": [asdict(row) for row in removed]})
        return 0
    print("\n".join([*(_line("-", row) for row in removed), *(_line("+", row) for row in added)]))
    print(f"{len(added)} added, {len(removed)} removed")
    return 0


def _rollback(store: VerifiedStore, arguments: Arguments) -> int:
    chosen = _versions(arguments, at_most=1)
    with RunDirectory(arguments.run):  # nobody else writes meanwhile
        version = store.rollback(*chosen)
    if arguments.json:
        print_json({"head": version})
    else:
        print(f"{version} counts now, with {len(store.rows())} rows; the weights stay as they are")
    return 0


def _export(store: VerifiedStore, arguments: Arguments) -> int:
    if len(arguments.rest) != 1:
        raise ValueError(f"export to which file? `eco store export {arguments.run} rows.jsonl`")
    path, rows = Path(absolute(arguments.rest[0])), store.rows()
    if not path.parent.is_dir():
        raise ValueError(f"no folder {path.parent}; make it, or name another file")
    with replacing(path) as stream:
        stream.writelines(row.line() for row in rows)
    if arguments.json:
        print_json({"path": str(path), "rows": len(rows)})
    else:
        print(f"{len(rows)} rows of {store.head} in {path}")
    return 0


def _versions(arguments: Arguments, at_most: int) -> list[str]:
    if len(arguments.rest) > at_most:
        raise ValueError(f"{arguments.action} takes at most {at_most} version(s), not {', '.join(arguments.rest)}")
    return [*arguments.rest]


def _chain(store: VerifiedStore) -> list[str]:
    """The version that counts and its ancestors."""
    versions = [store.head]
    while versions[-1] != EMPTY:
        versions.append(store.manifest(versions[-1]).parent)
    return versions


def _told(store: VerifiedStore, version: str) -> dict[str, Any]:
    manifest = store.manifest(version)
    return {
        "version": version,
        "parent": manifest.parent,
        "round": manifest.round,
        "added": manifest.rows,
        "removed": len(manifest.removed),
        "rows": len(store.rows(version)),
        "created": manifest.created[:16].replace("T", " "),  # UTC, to the minute
    }


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "   ".join(f"{key} {_shown(one)}" for key, one in value.items())
    if isinstance(value, tuple):
        return f"{len(value)} rows"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _line(sign: str, row: Row) -> str:
    return (
        f"{sign} {row.id[:12]}  round {row.round}  {_safe(row.task)}  {_safe(row.completion.strip().splitlines()[-1])}"
    )


def _safe(text: str) -> str:
    """A model's words without codes that a terminal would obey."""
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)
