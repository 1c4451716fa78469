"""The nonlinearities of the feed-forward networks."""

from typing import Literal

from torch import Tensor

from eco.kernels.activation import cpu, eager


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up (arXiv 2002.05202).

    gate_up: (..., 2F), the gate's F units, then the others, as one projection yields them. Returns (..., F).
    """
    return cpu.swiglu(gate_up) if cpu.able(gate_up) else eager.swiglu(gate_up)


def gelu(x: Tensor, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """GELU (arXiv 1606.08415), exact or with the tanh approximation that GPT-2 uses."""
    return cpu.gelu_tanh(x) if approximate == "tanh" and cpu.able(x) else eager.gelu(x, approximate)
