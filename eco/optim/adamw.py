"""AdamW (Loshchilov and Hutter, arXiv 1711.05101), one pass over memory for each parameter: torch's fused kernel, or
our own where the moments are kept in bf16."""

from typing import Literal

import torch
from torch import nn

from eco.config import setting
from eco.optim.contract import OptimizerConfig, decay_groups, dense_parameters
from eco.optim.parts.narrow_adamw import NarrowAdamW


class Config(OptimizerConfig):
    """Defaults are those of GPT-3 (arXiv 2005.14165): a shorter memory of the squared gradient than Adam's 0.999."""

    name: str = setting("adamw", "Optimizer: the name of a file in eco/optim.", flat="optimizer")
    beta1: float = setting(0.9, "Decay of the running mean of gradients, per step.", flat="adam-beta1", ge=0, lt=1)
    beta2: float = setting(0.95, "Decay of the running mean of squares, per step.", flat="adam-beta2", ge=0, lt=1)
    eps: float = setting(1e-8, "Added to the root of the squared gradient's mean.", flat="adam-eps", gt=0)

    state_dtype: Literal["fp32", "bf16"] = setting(
        "fp32",
        "Dtype of the running means: bf16 halves their memory, 8 bytes for each weight.",
        flat="adam-state-dtype",
    )


def build(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters of `model`; a tied parameter counts once."""
    parameters, betas = dense_parameters(model), (config.beta1, config.beta2)
    if config.state_dtype == "bf16":
        return NarrowAdamW(decay_groups(parameters, config, betas=betas, eps=config.eps))
    return torch.optim.AdamW(decay_groups(parameters, config), lr=config.lr, betas=betas, eps=config.eps, fused=True)
