"""The Mamba-3 mixer in plain torch, by chunks, with its own backward.

Within a chunk of c positions memory is never formed: an output is a sum over earlier positions, weighted by the product
of query and key and by the decay in between, which is two matrix products (the state space duality, arXiv 2405.21060).
From chunk to chunk the memory is carried. Of it, one per chunk is kept for the backward, and no scores.

The rule of the trapezoid costs nothing: position j enters every later one with gain_j + previous_gain_{j+1}, and
itself with gain_j alone. Ranks are further positions at the same time: rows are (position, rank), c R of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from eco.kernels.mamba3.contract import Mamba3State, Mamba3Weights
from eco.kernels.native import compute_dtype


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
    chunk: int,
    reset: Tensor | None = None,
    state: Mamba3State | None = None,
    scan: Callable[..., tuple[Tensor, Tensor]] | None = None,
) -> tuple[Tensor, Mamba3State]:
    """See `eco.kernels.mamba3.mamba3_mix`; `scan` computes what `_Scan` does."""
    dtype = compute_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        chunk = min(chunk, x.shape[1])
        q, k, v, last_key, last_value = _recomputed(_rows, x, key, query, rotation, weights, chunk, dtype)
        log_decay, gain, previous_gain = (part.transpose(1, 2) for part in (log_decay, gain, previous_gain))
        merged = gain + F.pad(previous_gain[..., 1:], (0, 1))
        numbers = tuple(_chunks(part, chunk) for part in (log_decay, gain, merged))
        if state is None:
            start = last_key.new_zeros(*last_key.shape[:2], key.shape[-1], x.shape[-1])
        else:
            start = state.memory + (state.key * previous_gain[:, :, 0, None, None]).mT @ state.value
        y, memory = (scan or _Scan.apply)(q, k, v, *numbers, start, _documents(reset, chunk))
        out = _recomputed(_finish, y, x, gate, weights, dtype)
        return out, Mamba3State(memory, last_key, last_value)


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
    dtype = compute_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        turn = None if rotation is None else (rotation[0][:, :, None], rotation[1][:, :, None])
        k = _rotate(_wide(key)[:, None] + weights.key_bias, turn)
        q = _rotate(_wide(query)[:, None] + weights.query_bias, turn)
        v = _wide(x)[:, :, None] * weights.value_in
        decay, gain, previous_gain = (part[..., None, None] for part in (log_decay.exp(), gain, previous_gain))
        past = state.memory + (state.key * previous_gain).mT @ state.value
        memory = decay * past + (k * gain).mT @ v
        out = _gather(q @ memory, x, gate, weights).to(dtype)
        return out, Mamba3State(memory, k, v)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """What the function gives; its backward computes it again, for its intermediates are larger than its inputs."""
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def _rows(
    x: Tensor,
    key: Tensor,
    query: Tensor,
    rotation: tuple[Tensor, Tensor] | None,
    weights: Mamba3Weights,
    chunk: int,
    dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    """Queries, keys and values as `_Scan` wants them; the last position's key and value as the state does."""
    turn = None if rotation is None else (_by_head(rotation[0])[..., None, :], _by_head(rotation[1])[..., None, :])
    q, k = (
        _rotate(_wide(vectors)[:, None] + bias[:, None], turn)
        for vectors, bias in ((query, weights.query_bias), (key, weights.key_bias))
    )
    v = _wide(_by_head(x))[:, :, :, None] * weights.value_in[:, None]
    q_rows, k_rows, v_rows = (_chunks(part.to(dtype), chunk).flatten(3, 4) for part in (q, k, v))
    return q_rows, k_rows, v_rows, k[:, :, -1].clone(), v[:, :, -1].clone()


def _finish(y: Tensor, x: Tensor, gate: Tensor, weights: Mamba3Weights, dtype: torch.dtype) -> Tensor:
    """The outputs (B, T, H, P) from those of `_Scan`."""
    heads, ranks = weights.value_in.shape[0], weights.value_in.shape[1]
    y = y.view(len(y), heads, -1, ranks, x.shape[-1])[:, :, : x.shape[1]]
    return _gather(y, _by_head(x), _by_head(gate), weights).to(dtype).transpose(1, 2)


def _by_head(x: Tensor) -> Tensor:
    """(B, T, H, ...) as (B, H, T, ...), contiguous."""
    return x.transpose(1, 2).contiguous()


def _rotate(vectors: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
    """vectors: (..., R, N), of which the first 2A entries turn; cosine and sine: (..., 1, A)."""
    if turn is None:
        return vectors
    cos, sin = turn
    count = cos.shape[-1]
    first, second, rest = torch.split(vectors, [count, count, vectors.shape[-1] - 2 * count], dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def _gather(y: Tensor, x: Tensor, gate: Tensor, weights: Mamba3Weights) -> Tensor:
    """Skips, gates and adds up the ranks. y: (B, H, [T,] R, P); x, gate: (B, H, [T,] P); returns the shape of x."""
    skips, gate_in, out = weights.skip[:, None, None] * weights.value_in, weights.gate_in, weights.out
    if x.dim() == 4:
        skips, gate_in, out = skips[:, None], gate_in[:, None], out[:, None]
    gates = F.silu(_wide(gate).unsqueeze(-2) * gate_in)
    return (torch.addcmul(y, _wide(x).unsqueeze(-2), skips) * gates * out).sum(-2)


def _chunks(part: Tensor, chunk: int) -> Tensor:
    """(B, H, T, ...) as (B, H, T / c, c, ...), T filled up with zeros: they take in nothing and decay nothing."""
    missing = -part.shape[2] % chunk
    if missing:
        part = F.pad(part, (0, 0) * (part.dim() - 3) + (0, missing))
    return part.view(*part.shape[:2], -1, chunk, *part.shape[3:])


def _documents(reset: Tensor | None, chunk: int) -> Tensor | None:
    """(B, 1, T / c, c + 1): the number of each position's document, first that of the position before the chunk."""
    if reset is None:
        return None
    numbers = _chunks(reset[:, None].int(), chunk)
    numbers = numbers.flatten(2).cumsum(-1).view_as(numbers)
    before = F.pad(numbers[:, :, :-1, -1:], (0, 0, 1, 0))
    return torch.cat((before, numbers), dim=-1)


class _Decays(NamedTuple):
    """Factors by which memory has decayed between two places, of n chunks of c positions; 0 across documents.

    between: (B, H, n, c, c), from position j to i > j, else 0; into: (B, H, n, c), from before the chunk to position i;
    after: (B, H, n, c), from position j to the end of the chunk; through: (B, H, n), from before the chunk to its end.
    """

    between: Tensor
    into: Tensor
    after: Tensor
    through: Tensor


def _decays(log_decay: Tensor, documents: Tensor | None) -> _Decays:
    """Differences of sums in float64: after a position that forgets nearly all, fp32 would round slow decays away."""
    total = log_decay.double().cumsum(-1)
    into, after, through = total, total[..., -1:] - total, total[..., -1]
    between = (total[..., :, None] - total[..., None, :]).clamp_(max=0)  # where j > i, to be dropped, exp would be inf
    into, after, through, between = (part.to(log_decay.dtype).exp() for part in (into, after, through, between))
    between.tril_(-1)
    if documents is not None:
        here, before, last = documents[..., 1:], documents[..., :1], documents[..., -1:]
        into, after, through = into * (here == before), after * (here == last), through * (before == last)[..., 0]
        between *= here[..., :, None] == here[..., None, :]
    return _Decays(between, into, after, through)


class _Scan(torch.autograd.Function):
    """y_i = sum_{j <= i} weight_ij (q_i . k_j) v_j, j in i's chunk of c R rows, + into_i q_i . memory before the chunk.

    q, k: (B, H, n, c R, N) and v: (B, H, n, c R, P) in one dtype; log_decay, gain, merged: (B, H, n, c), gain for i = j
    and merged for j < i; start: (B, H, N, P). Returns y, shaped as v, and the memory after the last chunk.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor,
        gain: Tensor,
        merged: Tensor,
        start: Tensor,
        documents: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        decays = _decays(log_decay, documents)
        added = _scaled(k, decays.after * merged).mT @ v
        memories, last = _carry(decays.through, added.to(start.dtype), start, range(added.shape[2]))
        scores = _weigh_(q @ k.mT, _weights(decays.between, gain, merged))
        y = _sum_of_products(_scaled(q, decays.into), memories.to(q.dtype), scores, v)
        ctx.save_for_backward(q, k, v, gain, merged, memories, *decays)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, gain, merged, memories, *saved = ctx.saved_tensors
        decays = _Decays(*saved)
        leaving = decays.after * merged
        dentering = _scaled(q, decays.into).mT @ dy
        dmemories, dstart = _carry(decays.through, dentering.to(dlast.dtype), dlast, range(q.shape[2] - 1, -1, -1))
        low = dmemories.to(q.dtype)

        dq, dk = dy @ memories.to(q.dtype).mT, v @ low.mT
        dinto, dleaving = _by_position(dq * q, merged), _by_position(dk * k, merged)
        dthrough = (dmemories * memories).sum((-2, -1))

        weights = _weights(decays.between, gain, merged)
        scores, dscores = q @ k.mT, dy @ v.mT
        dweights = _by_pair(scores * dscores, merged)
        _weigh_(scores, weights), _weigh_(dscores, weights)
        dv = _sum_of_products(_scaled(k, leaving), low, scores.mT, dy)
        dq = _scaled(dq, decays.into) + dscores @ k
        dk = _scaled(dk, leaving) + dscores.mT @ q

        dgain = dweights.diagonal(dim1=-2, dim2=-1).clone()
        dpairs = dweights.mul_(decays.between)
        dmerged = dpairs.sum(-2) + dleaving * decays.after
        ddecay = _decay_gradient(dpairs, merged, dinto * decays.into, dleaving * leaving, dthrough * decays.through)
        return dq, dk, dv, ddecay, dgain, dmerged, dstart, None


def _decay_gradient(dpairs: Tensor, merged: Tensor, dinto: Tensor, dleaving: Tensor, dthrough: Tensor) -> Tensor:
    """The gradient of log_decay, which acts at t wherever something passes t: from j < t to i >= t.

    Added up from the pairs that do, so that what is 0 between documents stays exactly 0. (As the cumulative sum of a
    gradient per position it would be a difference of rounded numbers.)
    """
    chunk = merged.shape[-1]
    later = torch.ones(chunk, chunk, dtype=merged.dtype, device=merged.device).triu()
    arriving = (later @ dpairs).tril_(-1)
    inside = (arriving @ merged[..., None]).squeeze(-1) + dinto.flip(-1).cumsum(-1).flip(-1)
    return inside + F.pad(dleaving.cumsum(-1)[..., :-1], (1, 0)) + dthrough[..., None]


def _carry(through: Tensor, added: Tensor, memory: Tensor, order: range) -> tuple[Tensor, Tensor]:
    """memory = through_i memory + added_i, for i in `order`: the memories before each i, and the last.

    through: (B, H, n); added: (B, H, n, N, P); memory: (B, H, N, P).
    """
    before = torch.empty_like(added)
    for i in order:
        before[:, :, i] = memory
        memory = torch.addcmul(added[:, :, i], through[:, :, i, None, None], memory)
    return before, memory


def _weights(between: Tensor, gain: Tensor, merged: Tensor) -> Tensor:
    """How much of what j took in is in the output of i: (B, H, n, c, c)."""
    weights = between * merged[..., None, :]
    weights.diagonal(dim1=-2, dim2=-1).copy_(gain)
    return weights


def _scaled(rows: Tensor, factors: Tensor) -> Tensor:
    """rows: (B, H, n, c R, D), times factors (B, H, n, c), in the dtype of the rows."""
    return (rows.view(*factors.shape, -1) * factors[..., None]).to(rows.dtype).view_as(rows)


def _weigh_(scores: Tensor, weights: Tensor) -> Tensor:
    """scores: (B, H, n, c R, c R), in place times weights (B, H, n, c, c)."""
    chunk = weights.shape[-1]
    by_rank = scores.view(*scores.shape[:3], chunk, -1, chunk, scores.shape[-1] // chunk)
    by_rank.mul_(weights[..., :, None, :, None])
    return scores


def _by_position(products: Tensor, like: Tensor) -> Tensor:
    """products: (B, H, n, c R, D), summed to (B, H, n, c) in the dtype of `like`."""
    return products.view(*like.shape, -1).sum(-1, dtype=like.dtype)


def _by_pair(products: Tensor, like: Tensor) -> Tensor:
    """products: (B, H, n, c R, c R), summed to (B, H, n, c, c) in the dtype of `like`."""
    chunk = like.shape[-1]
    if products.shape[-1] == chunk:
        return products.to(like.dtype)
    return products.view(*products.shape[:3], chunk, -1, chunk, products.shape[-1] // chunk).sum(
        (4, 6), dtype=like.dtype
    )


def _sum_of_products(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """a b + c d, matrices (B, H, n, ., .)."""
    total = (a @ b).flatten(0, 2)
    return torch.baddbmm(total, c.flatten(0, 2), d.flatten(0, 2)).view(*a.shape[:-1], b.shape[-1])
