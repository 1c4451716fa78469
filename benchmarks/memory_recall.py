"""What memory slots carry: a value named in the first segment of a window, asked for in the last.

A window is four segments of 16 tokens: filler, with one pair of key and value at a random place of the first segment,
and the key again as the last token of all, where the value is to be named: 1 of 16, so that chance is 6 %. The arms are
the same model with and without slots, and with the whole window under its attention. Two minutes: it is no line of
`make bench`. `python -m benchmarks.memory_recall` prints the table.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks import outcomes
from eco.models import simone
from eco.models.contract import IGNORE, Batch, build_model, evaluating
from eco.optim import muon

KINDS, SEGMENT, SEGMENTS = 16, 16, 4
"""Keys are tokens 0 to KINDS - 1, then as many values, then as many kinds of filler."""

ARMS: dict[str, dict[str, Any]] = {
    "segments, 16 slots": {"segment": SEGMENT, "memory_slots": 16},
    "segments, no slots": {"segment": SEGMENT},
    "no segments": {},
}

SIZES = {"vocab_size": 3 * KINDS, "context": SEGMENT * SEGMENTS, "width": 64, "layers": 2, "heads": 4}
BATCH, LR, WARMUP = 32, 5e-3, 30


@dataclass(frozen=True)
class Arguments:
    """Train every arm with every seed, on one thread, and print one table."""

    seeds: int = 3
    steps: int = 200
    out: Path | None = None
    """Append each run's figures to this file, one JSON object a line; runs that it has are not repeated."""


@dataclass(frozen=True)
class Outcome:
    arm: str
    seed: int
    accuracy: float
    milliseconds: float
    """CPU time of a training step, the median."""
    gate: float
    """How open the gates were in the last step, the mean; 0 without slots."""


def main(words: Sequence[str]) -> int:
    arguments = tyro.cli(Arguments, args=words, prog="python -m benchmarks.memory_recall")
    torch.set_num_threads(1)
    found = {(outcome.arm, outcome.seed): outcome for outcome in outcomes.read(arguments.out, Outcome)}
    for arm, seed in itertools.product(ARMS, range(arguments.seeds)):
        if (arm, seed) not in found:
            found[arm, seed] = train_arm(arm, seed, arguments.steps)
            outcomes.keep(arguments.out, found[arm, seed])
    print("\n".join(table(list(found.values()))))
    return 0


def train_arm(arm: str, seed: int, steps: int) -> Outcome:
    """One model, Muon at a rate that rises over WARMUP steps and falls to a tenth by the last."""
    model = build_model(simone.build, simone.Config(**SIZES, **ARMS[arm]), seed, torch.device("cpu"))
    optimizer = muon.build(muon.Config(lr=LR, weight_decay=0.0), model)
    rates = (LR * min(1.0, (step + 1) / WARMUP) * (1 - 0.9 * step / steps) for step in range(steps))
    generator, times, gate = torch.Generator().manual_seed(1000 + seed), [], 0.0
    for rate in rates:
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch, start = windows(BATCH, generator), time.process_time()
        output = model.training_step(batch)
        optimizer.zero_grad()
        output.losses["lm"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.after_step()
        times.append(1e3 * (time.process_time() - start))
        gate = float(output.metrics.get("memory_gate", gate))
    return Outcome(arm, seed, accuracy(model), statistics.median(times), gate)


def windows(count: int, generator: torch.Generator) -> Batch:
    """`count` windows; the last target is the value asked for, the others are IGNORE."""

    def drawn(least: int, most: int, *shape: int) -> Tensor:
        return torch.randint(least, most, shape, generator=generator)

    tokens = drawn(2 * KINDS, 3 * KINDS, count, SEGMENT * SEGMENTS)
    keys, values, rows = drawn(0, KINDS, count), drawn(KINDS, 2 * KINDS, count), torch.arange(count)
    place = drawn(0, SEGMENT - 1, count)
    tokens[rows, place], tokens[rows, place + 1] = keys, values
    tokens[:, -1] = keys
    targets = torch.full_like(tokens, IGNORE)
    targets[:, -1] = values
    return {"tokens": tokens, "targets": targets}


@torch.no_grad()
def accuracy(model: simone.Simone, count: int = 1024) -> float:
    """Share of fresh windows whose question is answered."""
    batch = windows(count, torch.Generator().manual_seed(0))
    with evaluating(model):
        answers = model(batch["tokens"], last_only=True)[:, 0].argmax(-1)
    return float((answers == batch["targets"][:, -1]).float().mean())


def table(found: Sequence[Outcome]) -> Iterator[str]:
    """Markdown: the accuracy of each seed, the gates, and the time of a step."""
    runs = {arm: [outcome for outcome in found if outcome.arm == arm] for arm in ARMS}
    times = {arm: statistics.median(run.milliseconds for run in runs[arm]) for arm in ARMS}
    yield "| model | accuracy of each seed | gates | CPU time a step, ms | against no segments |"
    yield "|---|---|--:|--:|--:|"
    for arm in ARMS:
        each = ", ".join(f"{run.accuracy:.1%}" for run in runs[arm])
        gate = f"{statistics.mean(run.gate for run in runs[arm]):.2f}" if "memory_slots" in ARMS[arm] else ""
        yield f"| {arm} | {each} | {gate} | {times[arm]:.1f} | {times[arm] / times['no segments']:.2f} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
