"""Both passes of Muon by the C++ in muon.cpp: 14 bytes for each weight in bf16, then 10."""

import torch
from torch import Tensor

from eco.kernels import native


def able(master: Tensor, rows: Tensor) -> bool:
    """Whether the C++ does these (m, n): fp32 on the CPU, contiguous, beside rows whose elements are."""
    return (
        master.dtype == torch.float32 and master.is_contiguous() and rows.stride(1) == 1 and native.usable(master, rows)
    )


def look_ahead_(momentum: Tensor, gradient: Tensor, decay: float, out: Tensor) -> Tensor:
    """See `eco.kernels.muon.look_ahead_`."""
    gradient, largest = gradient.contiguous(), torch.empty(())
    name = f"muon_look_ahead_{native.type_name(out.dtype)}"
    native.call(name, *out.shape, torch.tensor(decay), momentum, gradient, out, out.stride(0), largest)
    return largest


def move_(weight: Tensor, factor: Tensor, sizes: Tensor, decay: float) -> Tensor:
    """See `eco.kernels.muon.move_`."""
    sizes, norm = sizes.contiguous(), torch.empty(())
    name = f"muon_move_{native.type_name(factor.dtype)}"
    native.call(name, *weight.shape, torch.tensor(decay), sizes, weight, factor, factor.stride(0), norm)
    return norm
