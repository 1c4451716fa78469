"""Both passes of Muon written out, in the dtype of their inputs (float64 in tests), nothing rounded."""

from torch import Tensor


def look_ahead(momentum: Tensor, gradient: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """The new momentum, a running mean, and Nesterov's look ahead from there."""
    momentum = decay * momentum + (1 - decay) * gradient
    return momentum, decay * momentum + (1 - decay) * gradient


def move(weight: Tensor, factor: Tensor, sizes: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """The new weight (m, n) and the Frobenius norm of what was subtracted from it, decay apart; sizes: (m,)."""
    update = sizes[:, None] * factor
    return decay * weight - update, update.square().sum().sqrt()
