"""The Mamba-3 mixer (Lahoti et al., arXiv 2603.15569): a recurrence with a matrix as memory, per head.

Its memory decays by what the inputs say, takes in the present and the previous position (the exponential-trapezoidal
rule), R outer products at once (MIMO), and is complex where keys and queries are rotated by an accumulated phase.
"""

from torch import Tensor

from eco.kernels.mamba3 import cpu, eager
from eco.kernels.mamba3.contract import Mamba3State, Mamba3Weights
from eco.kernels.native import compute_dtype
from eco.kernels.triton import usable as usable_by_triton

__all__ = ["Mamba3State", "Mamba3Weights", "mamba3_mix", "mamba3_step"]


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
) -> tuple[Tensor, Mamba3State]:
    """All positions of a sequence, and the state after the last one. In head h, with k, q, v of rank r at position t:

        k = rotate(key + key_bias), q = rotate(query + query_bias), v = x * value_in
        memory_t = exp(log_decay_t) (memory_{t-1} + previous_gain_t sum_r k_{t-1} v_{t-1}^T) + gain_t sum_r k_t v_t^T
        output_t = sum_r out * (q_t memory_t + skip v_t) * silu(gate_t * gate_in)

    Computed in chunks (the state space duality, arXiv 2405.21060): the time is linear in T.

    Args:
        x, gate: (B, T, H, P).
        key, query: (B, T, R, N), the same for every head.
        log_decay, gain, previous_gain: (B, T, H) fp32; dt A (never above 0), lambda dt and (1 - lambda) dt.
        rotation: cosine and sine, each (B, T, H, A) fp32, of the phase accumulated so far; entries i and i + A of keys
            and queries, i < A <= N / 2, turn as a pair. None leaves them as they are: a real decay.
        chunk: positions that are compared pairwise; changes speed and rounding, not the meaning.
        reset: (B, T) bool, True where a document begins: nothing before it is seen.
        state: after the positions before these; None where these are the first.

    Returns:
        The outputs (B, T, H, P) in autocast's dtype, outside autocast that of x, and the state after position T - 1.
    """
    inputs = (x, gate, key, query, log_decay, gain, previous_gain, rotation, weights)
    if usable_by_triton(x, key, dtype=compute_dtype(x)):
        from eco.kernels.mamba3.triton import MOST_ROWS, able, scan  # imports Triton

        _, _, rank, entries = key.shape
        if able(rank, entries, x.shape[3], compute_dtype(x)):
            chunk = min(chunk, MOST_ROWS // rank)
            return eager.mamba3_mix(*inputs, chunk=chunk, reset=reset, state=state, scan=scan)
    if cpu.able(x, gate, key, query, weights):
        return cpu.mamba3_mix(*inputs, chunk=chunk, reset=reset, state=state)
    return eager.mamba3_mix(*inputs, chunk=chunk, reset=reset, state=state)


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
    """`mamba3_mix` of one position: the same inputs without their T axis. Its time does not grow with the context.

    Returns:
        The output (B, H, P) in autocast's dtype, outside autocast that of x, and the state after it.
    """
    return eager.mamba3_step(x, gate, key, query, log_decay, gain, previous_gain, rotation, weights, state)
