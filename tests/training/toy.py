"""A model that fits the contract and is no language model: a linear map with two losses."""

import torch
from torch import nn

from eco.models.contract import Model, ModelConfig, StepOutput
from eco.observe.phases import Phases
from eco.training.config import TrainConfig
from eco.training.precision import Precision
from eco.training.trainer import Trainer

WIDTH = 4


class Toy(Model):
    def __init__(self, largest_batch: int = 1_000_000) -> None:
        super().__init__()
        self.config = ModelConfig(family="toy")
        self.linear = nn.Linear(WIDTH, 1)
        self.largest_batch = largest_batch
        self.init_weights(torch.Generator().manual_seed(0))

    def init_weights(self, generator):
        for parameter in self.parameters():
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def training_step(self, batch, carry=None):
        if len(batch["tokens"]) > self.largest_batch:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        error = self.linear(batch["tokens"]) - batch["targets"]
        losses = {"square": error.square().mean(), "absolute": error.abs().mean()}
        return StepOutput(losses, {"largest_error": error.detach().abs().max()})

    def flops_per_token(self):
        return 6.0 * WIDTH


def samples(first: int, count: int):
    generator = torch.Generator().manual_seed(first)
    tokens = torch.randn(count, WIDTH, generator=generator)
    return {"tokens": tokens, "targets": tokens.sum(1, keepdim=True)}


def source(count: int, poison: range = range(0)):
    """An endless stream; the steps in `poison` (by number of batch) yield NaN."""

    def batches(position: int):
        while True:
            batch = samples(position, count)
            if position // count in poison:
                batch["targets"] = batch["targets"] * float("nan")
            yield batch
            position += count

    return batches


def trainer(model=None, batches=None, **settings) -> Trainer:
    """A trainer of the toy; what is no setting of TrainConfig goes to the Trainer."""
    model = model or Toy()
    config_fields = {name: settings.pop(name) for name in list(settings) if name in TrainConfig.model_fields}
    config = TrainConfig(
        **{"steps": 8, "batch_size": 8, "grad_clip": 0, "schedule": "constant", "precision": "fp32", **config_fields}
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for group in optimizer.param_groups:
        group["initial_lr"] = 0.1
    device = torch.device("cpu")
    precision = Precision(config.precision, device)
    batches = batches or source(config.batch_size * config.accumulation)
    return Trainer(config, model, optimizer, batches, precision, Phases(device), **settings)
