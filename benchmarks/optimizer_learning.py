"""Steps that each optimizer needs to come as far as AdamW, for a decoder of 1 M weights on the standard library.

Every run sees the same tokens in the same order from the same weights. All optimizers are tuned by the same rule, with
seed 0: the learning rates of FIRST_RATES, and while the best is the outermost one beyond it, at most MOST_RATES of
them. The best by the held-out loss at the end then runs with the other seeds. Five minutes for each optimizer on one
core: it is no line of `make bench`.
`python -m benchmarks.optimizer_learning --out FILE` prints the table.
"""

import itertools
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

import eco
from benchmarks import outcomes
from eco.observe.metrics import read_metrics

REFERENCE = "adamw"

ARMS: dict[str, dict[str, Any]] = {
    REFERENCE: {"optimizer.name": "adamw"},
    "muon": {"optimizer.name": "muon"},
    "normuon": {"optimizer.name": "normuon"},
    "adamuon": {"optimizer.name": "adamuon"},
    "teon": {"optimizer.name": "teon"},
    "c3o": {"optimizer.name": "c3o"},
    "c3o with credit": {"optimizer.name": "c3o", "credit.enabled": True, "credit.audit_every": 100},
    "gnprox": {"optimizer.name": "gnprox"},
    "gnprox, soap": {"optimizer.name": "gnprox", "optimizer.gn_mode": "soap"},
    "adam_atan2": {"optimizer.name": "adam_atan2"},
}
"""Name -> what is set beside SETTINGS."""

FIRST_RATES, MOST_RATES = (1e-3, 2e-3, 4e-3), 5

SETTINGS = {
    "model.width": 128, "model.layers": 4, "model.heads": 4, "model.context": 128, "train.minutes": None,
    "train.batch_size": 16, "train.warmup": 20, "train.schedule": "cosine", "train.final_lr": 0.1,
    "train.eval_every": 10, "train.eval_windows": 128, "checkpoint.every": 0, "prompts": (),
}  # fmt: skip
"""Set over the recipe `demo`."""


@dataclass(frozen=True)
class Arguments:
    """Tune and train every optimizer and print one table."""

    seeds: int = 3
    steps: int = 500
    arms: tuple[str, ...] = ()
    """Only these and AdamW."""
    out: Path | None = None
    """Append each run's figures to this file, one JSON object a line; runs of as many steps that it has are not
    repeated."""


@dataclass(frozen=True)
class Outcome:
    arm: str
    lr: float
    seed: int
    seconds: float
    """In the training steps, evaluation left out."""
    curve: list[list[float]]
    """[step, held-out loss in nats a token] at each evaluation."""

    @property
    def final(self) -> float:
        return self.curve[-1][1]


def main(words: Sequence[str]) -> int:
    arguments = tyro.cli(Arguments, args=words, prog="python -m benchmarks.optimizer_learning")
    if unknown := [arm for arm in arguments.arms if arm not in ARMS]:
        raise ValueError(f"--arms {', '.join(unknown)}: there is {', '.join(ARMS)}")
    kept = outcomes.read(arguments.out, Outcome)
    found = {_key(outcome): outcome for outcome in kept if outcome.curve[-1][0] == arguments.steps}

    def run(arm: str, lr: float, seed: int) -> None:
        if (arm, lr, seed) not in found:
            found[arm, lr, seed] = train_arm(arm, lr, seed, arguments.steps)
            outcomes.keep(arguments.out, found[arm, lr, seed])

    for arm in dict.fromkeys((REFERENCE, *(arguments.arms or ARMS))):
        rates = list(FIRST_RATES)
        while rates:
            run(arm, rates.pop(0), 0)
            if not rates:
                rates = next_rates([o for o in found.values() if o.arm == arm and o.seed == 0])
        for seed in range(1, arguments.seeds):
            run(arm, best_lr(arm, list(found.values())), seed)
    print("\n".join(table(list(found.values()))))
    return 0


def train_arm(arm: str, lr: float, seed: int, steps: int) -> Outcome:
    """One run, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        run = {"output_dir": folder, "train.seed": seed, "train.steps": steps, "optimizer.lr": lr}
        if (result := eco.train("demo", SETTINGS | ARMS[arm] | run)).reason != "steps":
            sys.exit(f"stopped: {result.reason}")
        rows = read_metrics(Path(folder) / "metrics.jsonl")
    curve = [[row["step"], row["val_loss"]] for row in rows if "val_loss" in row]
    return Outcome(arm, lr, seed, sum(row.get("core_step_time_s", 0.0) for row in rows), curve)


def best_lr(arm: str, found: Sequence[Outcome]) -> float:
    """The learning rate whose run with seed 0 ended lowest."""
    return min((o for o in found if o.arm == arm and o.seed == 0), key=lambda o: o.final).lr


def next_rates(tuned: Sequence[Outcome]) -> list[float]:
    """The rate beyond the best of the runs with seed 0, if that is the outermost and there may be more."""
    known, best = sorted({o.lr for o in tuned}), min(tuned, key=lambda o: o.final).lr
    if len(known) >= MOST_RATES or best not in (known[0], known[-1]):
        return []
    return [best / 2 if best == known[0] else best * 2]


def steps_to(curve: Sequence[Sequence[float]], loss: float) -> float | None:
    """The first step at which a curve is at `loss`, on straight lines between the evaluations; None: never."""
    for (step, above), (later, below) in itertools.pairwise(curve):
        if below <= loss:
            return step + (later - step) * max(0.0, above - loss) / max(above - below, 1e-12)
    return None


def table(found: Sequence[Outcome]) -> Iterator[str]:
    """Markdown: the best rate, held-out loss at the end, and steps to the reference's end as a share of its steps."""
    chosen: dict[str, dict[int, Outcome]] = {}
    for arm in ARMS:
        if runs := [o for o in found if o.arm == arm]:
            lr = best_lr(arm, runs)
            chosen[arm] = {o.seed: o for o in runs if o.lr == lr}
    reference = chosen[REFERENCE]
    seconds = statistics.median(run.seconds for run in reference.values())
    yield "| optimizer | rate | held-out loss, mean (each seed) | steps to AdamW's end (each seed) | time a step |"
    yield "|---|--:|---|---|--:|"
    for arm, runs in chosen.items():
        finals = [run.final for run in runs.values()]
        shares = [_share(run, reference[seed]) for seed, run in runs.items() if seed in reference]
        reached = [share for share in shares if share is not None]
        mean = f"{statistics.mean(reached):.2f}" if len(reached) == len(shares) else "not reached"
        each = ", ".join("-" if share is None else f"{share:.2f}" for share in shares)
        cost = statistics.median(run.seconds for run in runs.values()) / seconds
        lr, losses = next(iter(runs.values())).lr, ", ".join(f"{final:.3f}" for final in finals)
        yield f"| {arm} | {lr:g} | {statistics.mean(finals):.3f} ({losses}) | {mean} ({each}) | {cost:.2f} |"


def _share(run: Outcome, reference: Outcome) -> float | None:
    steps = steps_to(run.curve, reference.final)
    return None if steps is None else steps / reference.curve[-1][0]


def _key(outcome: Outcome) -> tuple[str, float, int]:
    return outcome.arm, outcome.lr, outcome.seed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
