"""What each part of SigmaLM brings: `sigma-tiny` with one part left out, and a decoder of as many active weights.

Every run sees the same tokens in the same order and makes the same number of steps; only what is named differs. Bits
per byte are those of 512 windows of the held-out part of the standard library, the same for all. Minutes, not seconds:
it is no line of `make bench`. `python -m benchmarks.sigma_learning --seeds 3` prints the table.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn

import eco
from benchmarks import outcomes
from eco import plugins
from eco import recipe as recipes
from eco.models.layers.moe.experts import Experts

# 488 units give the decoder's blocks 1.518 M weights; a token meets 1.522 M of those of sigma-tiny.
DECODER = {"model.family": "decoder", "model.feed_forward": 488, "model.tied": False}

ARMS: dict[str, dict[str, Any]] = {
    "sigma-tiny": {},
    "decoder of as many active weights": DECODER,
    "real-only Mamba-3": {"model.rotate_state": False},
    "rank 1 Mamba-3 (SISO)": {"model.mimo_rank": 1},
    "no differential attention": {"model.differential": False},
    "dense feed-forward": {"model.routed_experts": 0},
    "no RIB": {"model.rib": False},
    "full-precision linear layers": {"model.quant_mode": "none"},
}
"""Name -> what is set beside the recipe."""


@dataclass(frozen=True)
class Arguments:
    """Train every arm with every seed and print one table."""

    seeds: int = 3
    steps: int = 600
    arms: tuple[str, ...] = ()
    """Only these, by the start of their names."""
    out: Path | None = None
    """Append each run's figures to this file, one JSON object a line; runs that it has are not repeated."""


@dataclass(frozen=True)
class Outcome:
    arm: str
    seed: int
    bits_per_byte: float
    seconds: float
    parameters: int


def main(words: Sequence[str]) -> int:
    arguments = tyro.cli(Arguments, args=words, prog="python -m benchmarks.sigma_learning")
    found = {(outcome.arm, outcome.seed): outcome for outcome in outcomes.read(arguments.out, Outcome)}
    for seed in range(arguments.seeds):
        for arm in ARMS:
            wanted = not arguments.arms or arm.startswith(arguments.arms)
            if not wanted or (arm, seed) in found:
                continue
            found[arm, seed] = train_arm(arm, seed, arguments.steps)
            outcomes.keep(arguments.out, found[arm, seed])
    print("\n".join(table(found)))
    return 0


def train_arm(arm: str, seed: int, steps: int) -> Outcome:
    """One run, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "output_dir": folder, "train.seed": seed, "train.steps": steps, "train.eval_every": 0,
            "train.eval_windows": 512, "checkpoint.every": 0, "prompts": (),
        }  # fmt: skip
        start = time.perf_counter()
        result = eco.train("sigma-tiny", ARMS[arm] | settings)
        seconds = time.perf_counter() - start
    return Outcome(arm, seed, result.after["val_bits_per_byte"], seconds, sum(result.parameters.values()))


def table(found: Mapping[tuple[str, int], Outcome]) -> Iterator[str]:
    """Markdown: bits per byte of each seed, the mean, and its distance from the first arm with the same seed."""
    seeds = sorted({seed for _, seed in found})
    yield f"| run | parameters | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | against sigma-tiny | seconds |"
    yield f"|---|--:|{'--:|' * len(seeds)}--:|--:|--:|"
    for arm in ARMS:
        runs = [found[arm, seed] for seed in seeds if (arm, seed) in found]
        if not runs:
            continue
        each = {run.seed: run.bits_per_byte for run in runs}
        cells = [f"{each[seed]:.3f}" if seed in each else "" for seed in seeds]
        apart = [each[seed] - found["sigma-tiny", seed].bits_per_byte for seed in each if ("sigma-tiny", seed) in found]
        distance = f"{statistics.mean(apart):+.3f} ({min(apart):+.3f} to {max(apart):+.3f})" if apart else ""
        mean, seconds = statistics.mean(each.values()), statistics.mean(run.seconds for run in runs)
        size = f"{runs[0].parameters / 1e6:.2f} M"
        yield f"| {arm} | {size} | {' | '.join(cells)} | {mean:.3f} | {distance} | {seconds:.0f} |"


def active_weights(settings: Mapping[str, Any], vocabulary: int = 1024) -> float:
    """Weights of the blocks' matrices that one token meets, of `sigma-tiny` with `settings`."""
    config = eco_config(settings).model_copy(update={"vocab_size": vocabulary})
    with torch.device("meta"):
        model = plugins.find("models", config.family).build(config)
    weights = float(sum(m.weight.numel() for m in model.blocks.modules() if isinstance(m, nn.Linear)))
    for experts in (m for m in model.modules() if isinstance(m, Experts)):
        routed = experts.gate_up.weight.numel() + experts.down.weight.numel()
        weights -= routed * (1 - config.top_k / config.routed_experts)
    return weights


def eco_config(settings: Mapping[str, Any]) -> Any:
    """The model's Config of `sigma-tiny` with `settings`."""
    return recipes.load("sigma-tiny", eco.flags.from_mapping(settings)).model


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
