"""Both passes of Muon in plain torch, for any device: nothing waits for it."""

import torch
from torch import Tensor


def look_ahead_(momentum: Tensor, gradient: Tensor, decay: float, out: Tensor) -> Tensor:
    """See `eco.kernels.muon.look_ahead_`."""
    momentum.lerp_(gradient, 1 - decay)
    out.copy_(gradient.lerp(momentum, decay))
    return out.abs().amax().float()


def move_(weight: Tensor, factor: Tensor, sizes: Tensor, decay: float) -> Tensor:
    """See `eco.kernels.muon.move_`."""
    update = factor * sizes[:, None]
    weight.mul_(decay).sub_(update)
    norm: Tensor = torch.linalg.vector_norm(update)
    return norm
