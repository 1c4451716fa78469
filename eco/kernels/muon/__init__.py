"""What Muon and its kin do to a matrix before and after it is orthogonalised (see `eco.optim.parts.orthogonal`)."""

import torch
from torch import Tensor

from eco.kernels.muon import cpu, eager


@torch.no_grad()
def look_ahead_(momentum: Tensor, gradient: Tensor, decay: float, out: Tensor) -> Tensor:
    """Takes a gradient (m, n) into the momentum, its running mean, both fp32; writes Nesterov's look ahead from there.

    out: (m, n) in bf16 or fp32; its rows may stand apart.
    Returns the greatest magnitude in `out`, a scalar in fp32: unlike a sum of squares it neither under- nor overflows.
    """
    passes = cpu if cpu.able(momentum, out) else eager
    largest: Tensor = passes.look_ahead_(momentum, gradient, decay, out)
    return largest


@torch.no_grad()
def move_(weight: Tensor, factor: Tensor, sizes: Tensor, decay: float) -> Tensor:
    """weight (m, n) fp32 <- decay x weight - sizes x factor.

    factor: (m, n) in bf16 or fp32; its rows may stand apart. sizes: (m,) fp32, of each row.
    Returns the Frobenius norm of sizes x factor, a scalar in fp32, which does not depend on the number of threads.
    """
    passes = cpu if cpu.able(weight, factor) else eager
    norm: Tensor = passes.move_(weight, factor, sizes, decay)
    torch.autograd.graph.increment_version(weight)
    return norm
