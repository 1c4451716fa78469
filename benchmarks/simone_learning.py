"""What each part of `simone` brings: the same small model with one part or one auxiliary loss, and its peers.

Every run reads the same tokens of a library in the same order with the same optimizer; only what is named differs. Bits
per byte are those of all held-out text, read without metadata. Minutes, not seconds: it is no line of `make bench`.
`python -m benchmarks.simone_learning LIBRARY --seeds 3` prints the table.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

import eco
from benchmarks import outcomes
from eco.observe.metrics import read_metrics

PLAIN: dict[str, Any] = {
    "model.policy_rank": 0, "model.forgetting": False, "model.control": False, "model.concept_weight": 0.0,
    "model.continuation_weight": 0.0, "model.reference_weight": 0.0, "model.genre_weight": 0.0,
    "model.recall_weight": 0.0, "model.policy_weight": 0.0, "model.energy_weight": 0.0,
}  # fmt: skip
"""Turns all parts of the recipe off."""

PROPOSED: dict[str, Any] = {
    "model.forgetting": False, "model.reference_weight": 0.1, "model.genre_weight": 0.05,
}  # fmt: skip
"""The weights that the design of these losses proposed; without forgetting gates."""

SMALL: dict[str, Any] = {
    "model.width": 128, "model.layers": 4, "model.heads": 2, "model.feed_forward": 344, "train.warmup": 30,
}  # fmt: skip

HALF: dict[str, Any] = {"model.segment": 128}

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "decoder": ("simone-laptop", {"model.family": "decoder"}),
    "mvlm-gpt2": ("mvlm-gpt2-laptop", {"model.feed_forward": 512}),
    "mvlm-gpt2, documents weigh alike": ("mvlm-gpt2-laptop", {"model.feed_forward": 512, "data.weighting": "none"}),
    "simone, its recipe": ("simone-laptop", {}),
    "simone, losses as strong as proposed": ("simone-laptop", PROPOSED),
    "simone, no part": ("simone-laptop", PLAIN),
    "policy": ("simone-laptop", PLAIN | {"model.policy_rank": 8}),
    "forgetting": ("simone-laptop", PLAIN | {"model.forgetting": True}),
    "policy and forgetting": ("simone-laptop", PLAIN | {"model.policy_rank": 8, "model.forgetting": True}),
    "control": ("simone-laptop", PLAIN | {"model.control": True}),
    "segments of half a window": ("simone-laptop", PLAIN | HALF),
    "segments and 16 memory slots": ("simone-laptop", PLAIN | HALF | {"model.memory_slots": 16}),
    "4 experts, 2 of them a token": ("simone-laptop", PLAIN | {"model.routed_experts": 4}),
    "concepts": ("simone-laptop", PLAIN | {"model.concept_weight": 0.1}),
    "continuation": ("simone-laptop", PLAIN | {"model.continuation_weight": 0.05}),
    "reference": ("simone-laptop", PLAIN | {"model.reference_weight": 0.1}),
    "genre": ("simone-laptop", PLAIN | {"model.genre_weight": 0.05}),
    "recall": ("simone-laptop", PLAIN | {"model.recall_weight": 0.1}),
    "energy": ("simone-laptop", PLAIN | {"model.energy_weight": 1e-4}),
}
"""Name -> the recipe, and what is set beside it and SMALL."""

REFERENCE = "decoder"


@dataclass(frozen=True)
class Arguments:
    """Train every arm with every seed and print one table."""

    library: tyro.conf.Positional[Path]
    """What `eco data build-corpus` wrote."""
    seeds: int = 3
    steps: int = 300
    arms: tuple[str, ...] = ()
    """Only these, by the start of their names."""
    out: Path | None = None
    """Append each run's figures to this file, one JSON object a line; runs that it has are not repeated."""


@dataclass(frozen=True)
class Outcome:
    """controlled: bits per byte where the model is told the metadata; None where it takes none. seconds: processor time
    of a step, the median."""

    arm: str
    seed: int
    bits_per_byte: float
    controlled: float | None
    seconds: float
    parameters: int


def main(words: Sequence[str]) -> int:
    arguments = tyro.cli(Arguments, args=words, prog="python -m benchmarks.simone_learning")
    found = {(outcome.arm, outcome.seed): outcome for outcome in outcomes.read(arguments.out, Outcome)}
    for seed in range(arguments.seeds):
        for arm in ARMS:
            wanted = not arguments.arms or arm.startswith(arguments.arms)
            if wanted and (arm, seed) not in found:
                found[arm, seed] = train_arm(arm, seed, arguments.library, arguments.steps)
                outcomes.keep(arguments.out, found[arm, seed])
    print("\n".join(table(found)))
    return 0


def train_arm(arm: str, seed: int, library: Path, steps: int) -> Outcome:
    """One run, in a folder that is thrown away."""
    recipe, settings = ARMS[arm]
    given: dict[str, Any] = {
        "data.paths": f"library:{library}", "data.seed": seed, "train.seed": seed, "train.steps": steps,
        "train.eval_every": 0, "train.eval_windows": 0, "checkpoint.every": 0, "prompts": (),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        result = eco.train(recipe, SMALL | settings | given | {"output_dir": folder})
        rows = read_metrics(Path(folder, "metrics.jsonl"))
    seconds = statistics.median(row["step_cpu_s"] for row in rows if "step_cpu_s" in row)
    after = result.after
    per_nat = after["val_bits_per_byte"] / after["val_loss"]
    told = after.get("val_loss_controlled")
    controlled = None if told is None else told * per_nat
    parameters = sum(result.parameters.values())
    return Outcome(arm, seed, after["val_bits_per_byte"], controlled, seconds, parameters)


def table(found: Mapping[tuple[str, int], Outcome]) -> Iterator[str]:
    """Markdown: bits per byte of each seed, the mean, its distance from the decoder's with the same seed, the time."""
    seeds = sorted({seed for _, seed in found})
    each = " | ".join(f"seed {seed}" for seed in seeds)
    yield f"| run | parameters | {each} | mean | against decoder | time a step |"
    yield f"|---|--:|{'--:|' * len(seeds)}--:|--:|--:|"
    peers = {seed: found[REFERENCE, seed] for seed in seeds if (REFERENCE, seed) in found}
    for arm in ARMS:
        runs = {seed: found[arm, seed] for seed in seeds if (arm, seed) in found}
        if not runs:
            continue
        cells = [f"{runs[seed].bits_per_byte:.4f}" if seed in runs else "" for seed in seeds]
        apart = [runs[seed].bits_per_byte - peers[seed].bits_per_byte for seed in runs if seed in peers]
        distance = f"{statistics.mean(apart):+.4f} ({min(apart):+.4f} to {max(apart):+.4f})" if apart else ""
        cost = [runs[seed].seconds / peers[seed].seconds for seed in runs if seed in peers]
        time_ = f"{statistics.median(cost):.2f}" if cost else ""
        mean = f"{statistics.mean(run.bits_per_byte for run in runs.values()):.4f}"
        told = [run.controlled for run in runs.values() if run.controlled is not None]
        mean += f" (told the metadata {statistics.mean(told):.4f})" if told else ""
        size = f"{next(iter(runs.values())).parameters / 1e6:.2f} M"
        yield f"| {arm} | {size} | {' | '.join(cells)} | {mean} | {distance} | {time_} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
