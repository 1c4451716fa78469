"""`python -m benchmarks`: every performance figure of the house in one table, with the machine's limits and the peers.

A benchmark is a module of this folder with `rows(rounds: int) -> list[Row]`. The figures are also kept in
benchmarks/results.json, each benchmark's until it runs again.
"""

import gc
import importlib
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.measure import Row
from eco import machine

NAMES = (
    "limits",
    "training",
    "recursion",
    "scan",
    "sigma",
    "instant",
    "governance",
    "triton_kernels",
    "trainer_overhead",
    "optimizers",
    "decoding",
    "sampling",
    "encoding",
    "checkpoints",
    "sandbox",
)
ROUNDS, QUICK_ROUNDS = 5, 2
RESULTS = Path(__file__).with_name("results.json")


@dataclass(frozen=True)
class Arguments:
    """Measure and print one table; medians over alternating rounds, peers in the same process."""

    quick: bool = False
    """Two rounds instead of five: to see that it runs."""
    only: tuple[str, ...] = ()
    """Run only these benchmarks."""
    json: Path = RESULTS
    """Where the figures are kept."""


def main(words: Sequence[str]) -> int:
    arguments = tyro.cli(Arguments, args=words, prog="python -m benchmarks")
    if unknown := set(arguments.only) - set(NAMES):
        print(f"no benchmark {', '.join(sorted(unknown))}; there is: {', '.join(NAMES)}", file=sys.stderr)
        return 1
    machine.prepare()
    rounds = QUICK_ROUNDS if arguments.quick else ROUNDS
    results = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    lines = ["| what | median | unit | of the limit | limit | x best peer | note |", "|---|--:|---|--:|---|--:|---|"]
    for name in arguments.only or NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        measured: list[Row] = importlib.import_module(f"benchmarks.{name}").rows(rounds)
        gc.collect()
        lines += map(table_line, measured)
        results[name] = {"rounds": rounds, "machine": _machine(), "rows": [asdict(row) for row in measured]}
        arguments.json.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n")
    print("\n".join(lines))
    return 0


def table_line(row: Row) -> str:
    """A row of the Markdown table; what does not apply is left blank."""
    limit = "" if row.limit_ratio is None else f"{row.limit_ratio:.0%}"
    peer = "" if row.peer_ratio is None else f"{row.peer_ratio:.2f}"
    cells = [
        row.name,
        f"{row.value:,.{0 if row.value >= 100 else 2}f}",
        row.unit,
        limit,
        row.limit_name,
        peer,
        row.note,
    ]
    return f"| {' | '.join(cells)} |"


def _machine() -> dict[str, Any]:
    found = machine.inspect()
    return {
        "processor": found.processor,
        "cores": found.cores,
        "instruction_sets": list(found.instruction_sets),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
