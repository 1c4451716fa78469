"""All optimizers, and the small models on which each is held to what all promise."""

from typing import Any

import torch
from torch import Tensor, nn

from eco.models import gpt2
from eco.models.contract import build_model
from eco.optim import adam_atan2, adamuon, adamw, c3o, gnprox, muon, normuon, teon

EVERY: dict[str, tuple[Any, Any]] = {
    "adamw": (adamw, adamw.Config(lr=0.003)),
    "adamw_bf16": (adamw, adamw.Config(lr=0.003, state_dtype="bf16")),
    "adam_atan2": (adam_atan2, adam_atan2.Config(lr=0.003)),
    "muon": (muon, muon.Config(lr=0.02)),
    "normuon": (normuon, normuon.Config(lr=0.02)),
    "adamuon": (adamuon, adamuon.Config(lr=0.02)),
    "teon": (teon, teon.Config(lr=0.02)),
    "teon_half": (teon, teon.Config(lr=0.02, coupling=0.5)),
    "c3o": (c3o, c3o.Config(lr=0.005)),
    "sophia": (gnprox, gnprox.Config(lr=0.003)),
    "soap": (gnprox, gnprox.Config(lr=0.005, gn_mode="soap")),
}
"""Name in the tests -> (file of eco/optim, settings that suit `language_model`). A new optimizer is a line here."""


def build(name: str, model: nn.Module, **settings: float) -> torch.optim.Optimizer:
    """The optimizer with some settings changed."""
    module, config = EVERY[name]
    return module.build(config.model_copy(update=settings), model)


def language_model(seed: int = 0) -> gpt2.GPT2:
    """Two blocks of width 32 over 24 tokens, with an untied head."""
    config = gpt2.Config(width=32, layers=2, heads=2, vocab_size=24, context=32, tied=False)
    return build_model(gpt2.build, config, seed, torch.device("cpu"))


def sentences(step: int) -> Tensor:
    """(8, 33) tokens of a fixed language: each follows from the two before it, one in ten is noise."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(24, (8, 33), generator=generator)
    noise = torch.rand(8, 33, generator=generator) < 0.1
    for t in range(2, 33):
        follows = (3 * tokens[:, t - 1] + tokens[:, t - 2] // 6) % 24
        tokens[:, t] = torch.where(noise[:, t], tokens[:, t], follows)
    return tokens


def train(model: gpt2.GPT2, optimizer: torch.optim.Optimizer, count: int, start: int = 0) -> float:
    """`count` steps on sentences of their own; the mean loss of the last ten in nats."""
    losses = []
    for step in range(start, start + count):
        tokens = sentences(step)
        optimizer.zero_grad()
        loss = model.training_step({"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}).losses["lm"]
        loss.backward()
        optimizer.step()
        model.after_step()
        losses.append(float(loss.detach()))
    return sum(losses[-10:]) / len(losses[-10:])
