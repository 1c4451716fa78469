"""SigmaLM: a training step of the profile of 1.0 billion parameters, and decoding behind short and long contexts.

The step is forward, backward, clipping and the optimizer of the recipe `sigma`, on random tokens, in a process of its
own, whose peak memory is the figure. The prototype of this model trained the same profile at 152 to 198 tokens/s on its
author's GPU. `python -m benchmarks --only sigma` prints the rows.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from benchmarks import limits
from benchmarks.measure import Row, seconds
from eco import machine, plugins
from eco import recipe as recipes
from eco.models.contract import LanguageModel, build_model
from eco.models.layers.mamba3 import Mamba3
from eco.training.precision import Precision

PROTOTYPE = 198
"""Tokens/s, the upper end of what the prototype's author reports."""

WARM_UP = 6
"""Steps that are not timed: in these the process still gets pages from the system."""

POSITIONS = 100, 4000
DECODED = 64
"""Tokens timed at each position."""


def rows(rounds: int = 5) -> list[Row]:
    """Medians: tokens/s of training and the peak memory of its process; tokens/s of decoding at two positions."""
    return _training(rounds) + _decoding(rounds)


def _training(rounds: int) -> list[Row]:
    command = [sys.executable, "-m", "benchmarks.sigma", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    step = json.loads(done.stdout.splitlines()[-1])
    median = statistics.median(step["seconds"])
    speed = step["tokens"] / median
    return [
        Row(
            "train sigma, 1.0B: eco",
            speed,
            "tokens/s",
            limit_ratio=step["flops"] / median / statistics.median(step["limits"]),
            limit_name=step["limit"],
            peer_ratio=speed / PROTOTYPE,
            note=f"{step['parameters'] / 1e6:,.0f} M parameters, {median:.1f} s a step of {step['tokens']} tokens; "
            f"the peer is the prototype's {PROTOTYPE} tokens/s on a GPU",
        ),
        Row("train sigma, 1.0B: peak memory", step["peak_bytes"] / 1e9, "GB", note="of the process, all its life"),
    ]


def measure_training(rounds: int) -> dict[str, Any]:
    """Steps of the recipe `sigma`; call it in a fresh process."""
    machine.prepare()
    recipe = recipes.load("sigma")
    device = torch.device("cpu")
    precision = Precision(recipe.train.precision, device)
    config = recipe.model.model_copy(update={"document_end": -1})
    model = build_model(plugins.find("models", "sigma").build, config, 0, device)
    optimizer = plugins.find("optim", recipe.optimizer.name).build(recipe.optimizer, model)
    generator = torch.Generator().manual_seed(0)
    shape = recipe.train.batch_size, config.context
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision.name]

    def step() -> None:
        tokens = torch.randint(config.vocab_size, (shape[0], shape[1] + 1), generator=generator)
        with precision.autocast():
            losses = model.training_step({"tokens": tokens[:, :-1], "targets": tokens[:, 1:].contiguous()}).losses
            total = sum(model.loss_weights.get(name, 1.0) * loss for name, loss in losses.items())
        total.backward()
        model.evidence()
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        if norm > recipe.train.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(model.parameters(), recipe.train.grad_clip, norm)
        optimizer.step()
        model.after_step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(WARM_UP):
        step()
    timed, reached = [], []
    for _ in range(rounds):
        reached.append(limits.matmul(dtype))
        timed.append(seconds(step))
    tokens = shape[0] * shape[1]
    return {
        "seconds": timed,
        "limits": reached,
        "limit": f"matmul {dtype}".replace("torch.", ""),
        "tokens": tokens,
        "flops": model.flops_per_token() * tokens,
        "parameters": sum(model.parameter_table().values()),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _decoding(rounds: int) -> list[Row]:
    """`sigma-small`, one row, fp32: tokens/s at the positions, of the whole model and of the Mamba layers' share."""
    recipe = recipes.load("sigma-small")
    config = recipe.model.model_copy(update={"context": 4096 + DECODED, "document_end": -1, "vocab_size": 16_384})
    model = build_model(plugins.find("models", "sigma").build, config, 0, torch.device("cpu")).eval()
    clock = _Clock([module for module in model.modules() if isinstance(module, Mamba3)])
    whole: dict[int, list[float]] = {position: [] for position in POSITIONS}
    mamba: dict[int, list[float]] = {position: [] for position in POSITIONS}
    for _ in range(rounds):
        for position in POSITIONS:
            total, inside = _decode(model, position, clock)
            whole[position].append(DECODED / total)
            mamba[position].append(DECODED / inside)
    return [*_decode_rows("decode sigma-small", whole), *_decode_rows("decode sigma-small, Mamba layers", mamba)]


def _decode_rows(name: str, samples: dict[int, list[float]]) -> list[Row]:
    near, far = (statistics.median(samples[position]) for position in POSITIONS)
    kept = f"{far / near:.0%} of that at {POSITIONS[0]}"
    return [
        Row(f"{name}, at {POSITIONS[0]}", near, "tokens/s"),
        Row(f"{name}, at {POSITIONS[1]}", far, "tokens/s", note=kept),
    ]


class _Clock:
    """Adds up the seconds spent in some modules."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.seconds = 0.0
        self._began = 0.0
        for module in modules:
            module.register_forward_pre_hook(self._start)
            module.register_forward_hook(self._stop)

    def _start(self, *_: object) -> None:
        self._began = time.perf_counter()

    def _stop(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began


@torch.no_grad()
def _decode(model: LanguageModel, position: int, clock: _Clock) -> tuple[float, float]:
    """Seconds that the tokens behind `position` take, in all and in the modules of the clock."""
    tokens = torch.randint(model.config.vocab_size, (1, position), generator=torch.Generator().manual_seed(0))
    cache = model.new_cache(1, position + DECODED + 1)
    model(tokens, cache, last_only=True)
    token = tokens[:, :1]
    model(token, cache)
    clock.seconds = 0.0
    total = seconds(lambda: [model(token, cache) for _ in range(DECODED)])
    return total, clock.seconds


if __name__ == "__main__":
    print(json.dumps(measure_training(int(sys.argv[1]))))
