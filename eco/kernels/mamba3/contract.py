"""What the implementations of the Mamba-3 mixer share: its weights and the state it carries."""

from typing import NamedTuple

from torch import Tensor


class Mamba3Weights(NamedTuple):
    """Learned, fp32. H heads of P channels, N entries of state, rank R.

    key_bias, query_bias: (H, R, N), added before the rotation; value_in, gate_in, out: (H, R, P), which spread values
    and gates over the ranks and gather the ranks' outputs; skip: (H,), from a position's value to its output.
    """

    key_bias: Tensor
    query_bias: Tensor
    value_in: Tensor
    gate_in: Tensor
    out: Tensor
    skip: Tensor


class Mamba3State(NamedTuple):
    """What the positions so far leave behind, fp32 (float64 where the computation was).

    memory: (B, H, N, P), the sum of decayed keys times values; key: (B, H, R, N), the last position's key, biased and
    rotated; value: (B, H, R, P), its value in every rank. Zeros before the first position.
    """

    memory: Tensor
    key: Tensor
    value: Tensor
