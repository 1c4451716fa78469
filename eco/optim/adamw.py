"""AdamW (Loshchilov and Hutter, arXiv 1711.05101), torch's fused kernel: one pass over memory for each parameter."""

import torch
from torch import nn

from eco.config import setting
from eco.optim.contract import OptimizerConfig, decay_groups, dense_parameters


class Config(OptimizerConfig):
    """Defaults are those of GPT-3 (arXiv 2005.14165): a shorter memory of the squared gradient than Adam's 0.999."""

    name: str = setting("adamw", "Optimizer: the name of a file in eco/optim.", flat="optimizer")
    beta1: float = setting(0.9, "Decay of the running mean of gradients, per step.", flat="adam-beta1", ge=0, lt=1)
    beta2: float = setting(0.95, "Decay of the running mean of squares, per step.", flat="adam-beta2", ge=0, lt=1)
    eps: float = setting(1e-8, "Added to the root of the squared gradient's mean.", flat="adam-eps", gt=0)


def build(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters of `model`; a tied parameter counts once."""
    groups = decay_groups(dense_parameters(model), config)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
