"""A training step of a tiny recursive model on 9x9 Sudoku, batch 64: Eco beside the published one and the limit.

Width 128 with 4 heads and width 512 with 8, 2 layers, 81 cells and 16 positions of prefix, 3 cycles of 6 + 1 updates,
of which the last cycle carries gradient. Forward, backward and optimizer, the state carried from step to step, in the
dtype that Eco trains in on this machine. Eco steps with Adam-atan2, the peer with fused AdamW: the published
Adam-atan2 needs CUDA. What is compiled is the peer's stack of blocks, nearly all of it. The share of the limit is the
model's FLOPs, every update counted, per second over those of a 2048^3 product. `python -m benchmarks --only recursion`
prints the rows.
"""

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import limits
from benchmarks.measure import Row, alternate, seconds
from benchmarks.published_trm import PublishedTRM, State, loss_of
from eco import machine
from eco.models import trm
from eco.models.contract import Carry, build_model
from eco.optim import adam_atan2

BATCH, LENGTH, VOCABULARY, IDENTIFIERS = 64, 81, 11, 1001
HEADS = {128: 4, 512: 8}
"""Width -> heads."""


def rows(rounds: int = 5) -> list[Row]:
    """Medians in examples/s over alternating rounds, each also as a share of the limit measured between them."""
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[machine.training_dtype("cpu").dtype]
    return [row for width in HEADS for row in _rows(width, dtype, rounds)]


def _rows(width: int, dtype: torch.dtype, rounds: int) -> list[Row]:
    config = trm.Config(width=width, heads=HEADS[width], vocab_size=VOCABULARY, length=LENGTH, identifiers=IDENTIFIERS)
    model = build_model(trm.build, config, 0, torch.device("cpu"))
    assert isinstance(model, trm.TRM)
    limit = f"matmul {dtype}".replace("torch.", "")
    peers = {"published": _published(model, config, dtype, compiled=False)}
    if machine.compiler():
        peers["published, compiled"] = _published(model, config, dtype, compiled=True)
    steps = {"eco trm": _eco(model, dtype), **peers}
    speeds = {name: lambda step=step: BATCH / seconds(step) for name, step in steps.items()}
    samples = alternate({**speeds, limit: lambda: limits.matmul(dtype)}, rounds)
    median = {name: statistics.median(values) for name, values in samples.items()}
    fastest = max(median[name] for name in peers)
    return [
        Row(
            f"recursion, width {width}: {name}",
            median[name],
            "examples/s",
            limit_ratio=model.flops_per_example() * median[name] / median[limit],
            limit_name=limit,
            peer_ratio=None if name in peers else median[name] / fastest,
            note=f"{BATCH / median[name] * 1e3:,.0f} ms a step",
        )
        for name in steps
    ]


def _eco(model: trm.TRM, dtype: torch.dtype) -> Callable[[], None]:
    batch = _batch()
    optimizer = adam_atan2.build(adam_atan2.Config(), model)
    carry: Carry | None = None

    def step() -> None:
        nonlocal carry
        fresh = torch.ones(BATCH, dtype=torch.bool) if carry is None else carry["halted"]
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            output = model.training_step({**batch, "fresh": fresh}, carry)
        (output.losses["answer"] + 0.5 * output.losses["halt"]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        carry = output.carry

    return step


def _published(weights: trm.TRM, config: trm.Config, dtype: torch.dtype, *, compiled: bool) -> Callable[[], None]:
    batch = _batch()
    model = PublishedTRM(config, dtype)
    model.load_state_dict(weights.state_dict())
    if compiled:
        model.stack.compile()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    state: State | None = None

    def step() -> None:
        nonlocal state
        logits, halting, state = model(batch["tokens"], batch["puzzle"], state)
        loss_of(logits, halting, batch["targets"]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens, targets = torch.randint(VOCABULARY, (2, BATCH, LENGTH), generator=generator)
    puzzle = torch.randint(1, IDENTIFIERS, (BATCH,), generator=generator)
    return {"tokens": tokens, "targets": targets, "puzzle": puzzle}
