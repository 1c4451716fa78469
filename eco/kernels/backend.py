"""Which kernels an operation finds on a device, in one word."""

import torch

from eco.kernels import native, triton


def backend(device: torch.device | str) -> str:
    """`triton`, `cpp` or `torch`: the first choice for tensors there. Not every operation has every kind.

    On a CPU the first call in a process may compile the C++ (seconds).

    Raises:
        ValueError: ECO_KERNELS is unknown, or is `cpp` and there is no C++.
    """
    kind = torch.device(device).type
    if triton.serves(kind):
        return "triton"
    return "cpp" if kind == "cpu" and native.library() is not None else "torch"
