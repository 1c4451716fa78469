"""The passes over memory of a ternary linear layer by C++; none yet."""

import torch
from torch import Tensor


def able(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether the C++ makes `dtype` of such a tensor."""
    return False
