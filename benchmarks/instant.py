"""INSTANT: peak memory and time of a training step of `sigma-small`, against the same model with all activations kept.

Every arm is a process of its own, whose peak resident memory is the figure: weights, gradients and activations, without
an optimizer's state. `python -m benchmarks --only instant` prints the rows, `python -m benchmarks.instant ARM` one arm.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch

from benchmarks.measure import Row
from eco import machine, plugins
from eco import recipe as recipes
from eco.models.contract import LanguageModel, build_model
from eco.models.instant import apply_instant
from eco.training.precision import Precision

SHAPE = 16, 1024
"""Rows and tokens of a row."""
VOCABULARY = 4096

ARMS: dict[str, dict[str, Any]] = {
    "off": {},
    "coupling": {"instant_mode": "coupling"},
    "checkpoint": {"instant_mode": "checkpoint"},
    "fixed_point": {"instant_mode": "fixed_point"},
    "compressed": {"instant_compress": "all"},
}


def rows(rounds: int = 5) -> list[Row]:
    """Of each arm, the peak memory of its process and the median time of a step, beside those of the first arm."""
    found = {arm: _in_a_process(arm, min(rounds, 2)) for arm in ARMS}
    plain, table = found["off"], []
    shape = "{} x {} tokens".format(*SHAPE)
    for arm, figures in found.items():
        memory, seconds = figures["peak_bytes"], statistics.median(figures["seconds"])
        above, plain_above = (of["peak_bytes"] - of["bare_bytes"] for of in (figures, plain))
        note = (
            f"{memory / plain['peak_bytes']:.0%} of off, {above / plain_above:.0%} above a step of 32 tokens; "
            f"{figures['saved_gb']:.2f} GB not kept; {shape}, bf16"
        )
        table.append(Row(f"instant {arm}: peak memory", memory / 1e9, "GB", note=note))
        ratio = seconds / statistics.median(plain["seconds"])
        table.append(Row(f"instant {arm}: time of a step", seconds, "s", note=f"{ratio:.2f} x off"))
    return table


def _in_a_process(arm: str, rounds: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.instant", arm, str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(arm: str, rounds: int) -> dict[str, Any]:
    """Steps of one arm; call it in a fresh process."""
    machine.prepare()
    precision = Precision("bf16", torch.device("cpu"))
    changes = {"vocab_size": VOCABULARY, "context": SHAPE[1], "document_end": -1, **ARMS[arm]}
    config = recipes.load("sigma-small").model.model_copy(update=changes)
    model = build_model(plugins.find("models", "sigma").build, config, 0, torch.device("cpu")).train()
    assert isinstance(model, LanguageModel)
    apply_instant(model)
    generator, saved = torch.Generator().manual_seed(0), [0.0]

    def step(rows: int, length: int) -> None:
        model.zero_grad(set_to_none=True)
        tokens = torch.randint(VOCABULARY, (rows, length + 1), generator=generator)
        with precision.autocast():
            losses = model.training_step({"tokens": tokens[:, :-1], "targets": tokens[:, 1:].contiguous()}).losses
            total = torch.stack([model.loss_weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        saved[0] = model.evidence().get("instant", 0.0)
        model.after_step()

    step(1, 32)
    bare = _peak()
    step(*SHAPE)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        step(*SHAPE)
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "peak_bytes": _peak(), "bare_bytes": bare, "saved_gb": saved[0]}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2)))
