"""GNProx: steps by sampled curvature with a damping that the loss itself sets, and decoupled weight decay.

Two published methods. `sophia`: Sophia-G (arXiv 2305.14342), each weight's momentum over its sampled Gauss-Newton
curvature, for every parameter, with Levenberg-Marquardt damping; training samples and measures by
`eco.training.curvature`. `soap`: SOAP (arXiv 2409.11321), Adam in the eigenbasis of Shampoo's preconditioner, for
hidden matrices, AdamW for the rest; nothing is sampled or damped. The proximal step of both is weight decay.
"""

from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import nn

from eco.config import setting
from eco.optim.contract import OptimizerConfig, decay_groups, dense_parameters
from eco.optim.parts.damping import Damping
from eco.optim.parts.roles import hidden_matrices
from eco.optim.parts.soap import Soap
from eco.optim.parts.sophia import Sophia


class Config(OptimizerConfig):
    """Settings named after a mode act in that mode alone, the damping in sophia's.

    Momentum is shorter than the 0.96 and 0.95 of the papers: with small batches a clipped step outlives its reason.
    """

    name: str = setting("gnprox", "Optimizer: the name of a file in eco/optim.", flat="optimizer")
    gn_mode: Literal["sophia", "soap"] = setting(
        "sophia", "Curvature of each weight (sophia), or of each matrix (soap).", flat="gn-mode"
    )
    beta1: float = setting(0.8, "Decay of the running mean of gradients, per step.", flat="gn-beta1", ge=0, lt=1)
    beta2: float = setting(
        0.95, "Decay of the curvature: per refresh (sophia), or per step (soap).", flat="gn-beta2", ge=0, lt=1
    )
    eps: float = setting(1e-8, "Smallest divisor (sophia), or added to it (soap).", flat="gn-eps", gt=0)
    damping: float = setting(1e-4, "Added to the curvature at the start.", flat="gn-damping", gt=0)
    damping_min: float = setting(1e-6, "Smallest damping.", flat="gn-damping-min", gt=0)
    damping_max: float = setting(1.0, "Largest damping.", flat="gn-damping-max", gt=0)
    damping_up: float = setting(
        1.5, "Factor after a step that kept less than a quarter of its promise.", flat="gn-damping-up", gt=1
    )
    damping_down: float = setting(
        0.8, "Factor after a step that kept more than three quarters of it.", flat="gn-damping-down", gt=0, lt=1
    )
    damping_every: int = setting(10, "Steps between two measurements of the loss before and after a step.", gt=0)
    sophia_rho: float = setting(0.04, "Share of the curvature in the divisor: smaller clips more weights.", gt=0)
    sophia_every: int = setting(10, "Steps between two samples of the curvature.", gt=0)
    sophia_samples: int = setting(8, "Samples of the step's batch in each, in each process.", gt=0)
    soap_every: int = setting(10, "Steps between two refreshes of the bases.", gt=0)
    soap_largest_side: int = setting(1024, "Sides of a matrix longer than this keep the identity as basis.", ge=0)

    @model_validator(mode="after")
    def _damping_within_bounds(self) -> Self:
        if not self.damping_min <= self.damping <= self.damping_max:
            raise ValueError(
                f"--gn-damping {self.damping:g} must lie between --gn-damping-min {self.damping_min:g} and "
                f"--gn-damping-max {self.damping_max:g}"
            )
        return self


def build(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    """Sophia for all trainable parameters of `model`, or SOAP for its hidden matrices and AdamW for the rest."""
    common: dict[str, Any] = {"betas": (config.beta1, config.beta2), "eps": config.eps}
    if config.gn_mode == "sophia":
        damping = Damping(
            config.damping,
            least=config.damping_min,
            most=config.damping_max,
            up=config.damping_up,
            down=config.damping_down,
        )
        return Sophia(decay_groups(dense_parameters(model), config, **common, rho=config.sophia_rho), damping)
    blocks = hidden_matrices(model)
    others = [p for p in dense_parameters(model) if p not in blocks]
    sides = {"largest_side": config.soap_largest_side, "basis_every": config.soap_every}
    groups = decay_groups(blocks, config, **common, **sides) + decay_groups(others, config, **common, fused=True)
    return Soap(groups, blocks)
