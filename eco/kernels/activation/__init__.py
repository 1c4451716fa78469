"""The nonlinearities of the feed-forward networks."""

from typing import Literal

from torch import Tensor

from eco.kernels.activation import eager


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (arXiv 2002.05202); both of one shape."""
    return eager.swiglu(gate, up)


def gelu(x: Tensor, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """GELU (arXiv 1606.08415), exact or with the tanh approximation that GPT-2 uses."""
    return eager.gelu(x, approximate)
