"""A classifier that sees signal and noise in turn: what half of the blocks of its first layer learn helps nobody."""

import torch
from torch import nn

from eco.models.contract import Model, ModelConfig, StepOutput
from eco.observe.phases import Phases
from eco.optim import c3o
from eco.training.config import CreditConfig, TrainConfig
from eco.training.credit import Credit
from eco.training.precision import Precision
from eco.training.probe import Probe
from eco.training.trainer import Trainer

FEATURES, HIDDEN, CLASSES, ROWS = 32, 16, 8, 4
BLOCK = ROWS * HIDDEN
"""Elements of a block of the first layer: `ROWS` features. Even blocks see signal, odd ones noise."""

TRAINING, HELD_OUT = 4096, 1024


class HalfNoise(Model):
    """Features (F,) of a sample are drawn by its number; its label is a noisy function of those in even blocks."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.config = ModelConfig(family="half_noise")
        dice = torch.Generator().manual_seed(seed)
        self.features = torch.randn(TRAINING + HELD_OUT, FEATURES, generator=dice)
        signal = torch.arange(FEATURES) // ROWS % 2 == 0
        teacher = torch.randn(FEATURES, CLASSES, generator=dice) * signal[:, None]
        self.labels = torch.multinomial((self.features @ teacher).softmax(-1), 1, generator=dice)[:, 0]
        self.first, self.second = (nn.Parameter(torch.empty(*s)) for s in ((FEATURES, HIDDEN), (HIDDEN, CLASSES)))
        self.init_weights(dice)

    def init_weights(self, generator):
        for parameter in self.parameters():
            with torch.no_grad():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))

    def training_step(self, batch, carry=None):
        samples = batch["tokens"][:, 0]
        hidden = (self.features[samples].to(self.first.dtype) @ self.first).tanh()
        return StepOutput({"class": nn.functional.cross_entropy(hidden @ self.second, self.labels[samples])})

    def flops_per_token(self):
        return 6.0 * FEATURES * HIDDEN


def numbers(first: int, count: int) -> dict[str, torch.Tensor]:
    return {"tokens": torch.arange(first, first + count)[:, None] % TRAINING}


def held_out(index: int, count: int) -> dict[str, torch.Tensor]:
    return {"tokens": torch.arange(index, index + count)[:, None] % HELD_OUT + TRAINING}


def training(seed: int = 0, steps: int = 60, credit: bool = True, gain: float = 0.4, **settings) -> Trainer:
    """A trainer of the classifier by C3O, with credit as its only callback."""
    model = HalfNoise(seed)
    optimizer = c3o.build(c3o.Config(lr=0.02, block_size=BLOCK, weight_decay=0.0, credit_gain=gain), model)
    probe = Probe(model, Precision("fp32", torch.device("cpu")), rows=256)
    config = CreditConfig(**{"enabled": True, "every": 2, "windows": 256, "audit_every": 20, **settings})
    phases = Phases(torch.device("cpu"))
    return Trainer(
        TrainConfig(steps=steps, batch_size=64, schedule="constant", precision="fp32"),
        model,
        optimizer,
        lambda position: (numbers(n, 64) for n in range(position, 1 << 30, 64)),
        Precision("fp32", torch.device("cpu")),
        phases,
        callbacks=[Credit(optimizer, probe, held_out, {*optimizer.blocks}, config, seed)] if credit else [],
    )
