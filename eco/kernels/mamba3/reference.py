"""The Mamba-3 mixer written out, position by position, in the dtype of its inputs (float64 in tests)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from eco.kernels.mamba3.contract import Mamba3State, Mamba3Weights


def mamba3_mix(
    x: Tensor,
    gate: Tensor,
    key: Tensor,
    query: Tensor,
    log_decay: Tensor,
    gain: Tensor,
    previous_gain: Tensor,
    rotation: tuple[Tensor, Tensor] | None,
    weights: Mamba3Weights,
    *,
    reset: Tensor | None = None,
    state: Mamba3State | None = None,
) -> tuple[Tensor, Mamba3State]:
    """See `eco.kernels.mamba3.mamba3_mix`."""
    state = state or _empty(x, key)
    outputs = []
    for t in range(x.shape[1]):
        turn = None if rotation is None else (rotation[0][:, t], rotation[1][:, t])
        if reset is not None:
            kept = ~reset[:, t, None, None, None]
            state = Mamba3State(*(part * kept for part in state))
        now = (x[:, t], gate[:, t], key[:, t], query[:, t], log_decay[:, t], gain[:, t], previous_gain[:, t])
        output, state = mamba3_step(*now, turn, weights, state)
        outputs.append(output)
    return torch.stack(outputs, dim=1), state


def mamba3_step(
    x: Tensor,
    gate: Tensor,
    key: Tensor,
    query: Tensor,
    log_decay: Tensor,
    gain: Tensor,
    previous_gain: Tensor,
    rotation: tuple[Tensor, Tensor] | None,
    weights: Mamba3Weights,
    state: Mamba3State,
) -> tuple[Tensor, Mamba3State]:
    """See `eco.kernels.mamba3.mamba3_step`."""
    k = _rotate(key[:, None] + weights.key_bias, rotation)  # (B, H, R, N)
    q = _rotate(query[:, None] + weights.query_bias, rotation)
    v = x[:, :, None] * weights.value_in  # (B, H, R, P)
    alpha, beta, gamma = log_decay.exp()[..., None, None], previous_gain[..., None, None], gain[..., None, None]
    memory = alpha * (state.memory + beta * _outer(state.key, state.value)) + gamma * _outer(k, v)
    y = torch.einsum("bhrn,bhnp->bhrp", q, memory) + weights.skip[:, None, None] * v
    output = (weights.out * y * F.silu(gate[:, :, None] * weights.gate_in)).sum(2)
    return output, Mamba3State(memory, k, v)


def _outer(key: Tensor, value: Tensor) -> Tensor:
    """The sum over the ranks of key times value: (B, H, N, P)."""
    return torch.einsum("bhrn,bhrp->bhnp", key, value)


def _rotate(vectors: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
    """vectors: (B, H, R, N); entries i and i + A turn as a pair; cos, sin: (B, H, A)."""
    if rotation is None:
        return vectors
    cos, sin = (part[:, :, None] for part in rotation)
    count = cos.shape[-1]
    first, second, rest = torch.split(vectors, [count, count, vectors.shape[-1] - 2 * count], dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def _empty(x: Tensor, key: Tensor) -> Mamba3State:
    batch, _, heads, channels = x.shape
    _, _, rank, entries = key.shape
    return Mamba3State(
        x.new_zeros(batch, heads, entries, channels),
        x.new_zeros(batch, heads, rank, entries),
        x.new_zeros(batch, heads, rank, channels),
    )
