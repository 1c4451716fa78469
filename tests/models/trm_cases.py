"""Tiny recursive models of every kind, batches for them, and what a test reads off a step."""

import torch
from torch import Tensor

from eco.models import trm
from eco.models.contract import IGNORE, Batch, Carry, StepOutput, build_model

VOCABULARY, LENGTH, IDENTIFIERS = 7, 12, 5

SIZES: dict[str, object] = {
    "vocab_size": VOCABULARY, "length": LENGTH, "identifiers": IDENTIFIERS, "width": 32, "heads": 4, "expansion": 2.0,
    "prefix": 3, "cycles": 3, "inner_cycles": 2, "max_steps": 4,
}  # fmt: skip

VARIANTS: dict[str, dict[str, object]] = {
    "trm": {},
    "mlp": {"mixer": "mlp", "position": "none", "cycles": 2},
    "learned": {"position": "learned", "puzzle_width": 40},
    "bare": {"position": "none", "prefix": 0},
    "hrm": {"stacks": "separate", "gradient": "last", "halt": "continue", "cycles": 2, "prefix": 1, "max_steps": 2},
    "one-latent": {"latents": 1, "puzzle_width": 0},
    "one-cycle": {"cycles": 1, "inner_cycles": 3, "gradient": "last", "layers": 1},
}


def config_of(**changes: object) -> trm.Config:
    return trm.Config(**{**SIZES, **changes})


def made(config: trm.Config, seed: int = 0) -> trm.TRM:
    """A model whose halting head and table, which start at zero, matter too.

    The other weights stay as they are drawn: with larger ones the recursion is chaotic and blows up every rounding.
    """
    model = build_model(trm.build, config, seed, torch.device("cpu"))
    assert isinstance(model, trm.TRM)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in ("halt_head.weight", "halt_head.bias", "puzzle_table.weight"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.train()


def batch_of(rows: int, seed: int = 0) -> Batch:
    """Random puzzles; a third of the cells is not asked for."""
    generator = torch.Generator().manual_seed(seed)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=generator)

    targets = integers(VOCABULARY, rows, LENGTH).masked_fill(integers(3, rows, LENGTH) == 0, IGNORE)
    return {"tokens": integers(VOCABULARY, rows, LENGTH), "targets": targets, "puzzle": integers(IDENTIFIERS, rows)}


def total(output: StepOutput) -> Tensor:
    return sum(output.losses.values(), torch.zeros(()))


def gradients(model: trm.TRM) -> dict[str, Tensor]:
    return {name: p.grad.to_dense() for name, p in model.named_parameters() if p.grad is not None}


def carry_of(output: StepOutput) -> Carry:
    assert output.carry is not None
    return output.carry


def fresh(*rows: bool) -> dict[str, Tensor]:
    return {"fresh": torch.tensor(rows)}


def cut(tensors: dict[str, Tensor], rows: slice | Tensor) -> dict[str, Tensor]:
    return {name: tensor[rows] for name, tensor in tensors.items()}
