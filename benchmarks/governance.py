"""What governance attention costs: a training step of `simone`, 6 layers x 256, 4 heads, context 256, batch 16.

Forward, backward, clipping at 1.0 and fused AdamW in bf16. The arms take turns, and a step's figure is its CPU time on
one thread, which neighbours on the machine disturb least. `python -m benchmarks --only governance` prints the rows.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.measure import Row, alternate
from eco.models import simone
from eco.models.contract import build_model

LAYERS, WIDTH, HEADS, CONTEXT, BATCH, VOCABULARY = 6, 256, 4, 256, 16, 4096
STEPS = 3
"""Of one arm in its turn."""

PLAIN = "plain attention"
ARMS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "policy": {"policy_rank": 4, "policy_weight": 0.01},
    "forgetting": {"forgetting": True},
    "both": {"policy_rank": 4, "policy_weight": 0.01, "forgetting": True},
    "both, rank 8": {"policy_rank": 8, "policy_weight": 0.01, "forgetting": True},
}


def rows(rounds: int = 5) -> list[Row]:
    """Medians over the turns, and what each arm takes beside plain attention in the same turn."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        samples = alternate({name: _step_seconds(changes) for name, changes in ARMS.items()}, rounds)
    finally:
        torch.set_num_threads(threads)
    table = []
    for name, seconds in samples.items():
        ratio = statistics.median(mine / plain for mine, plain in zip(seconds, samples[PLAIN], strict=True))
        note = f"{ratio:.3f} x {PLAIN}; CPU time, one thread, bf16"
        table.append(Row(f"governance: {name}", statistics.median(seconds) * 1e3, "ms a step", note=note))
    return table


def _step_seconds(changes: dict[str, Any]) -> Callable[[], float]:
    """Measures the CPU time of a step, the least of some: what is above it is the machine's."""
    sizes = {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "context": CONTEXT, "vocab_size": VOCABULARY}
    model = build_model(simone.build, simone.Config(**sizes, **changes), 0, torch.device("cpu")).train()
    sequences = torch.randint(VOCABULARY, (BATCH, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    batch = {"tokens": sequences[:, :-1].contiguous(), "targets": sequences[:, 1:].contiguous()}
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> float:
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            losses = model.training_step(batch).losses
        torch.stack([model.loss_weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.process_time() - start

    return lambda: min(step() for _ in range(STEPS))
