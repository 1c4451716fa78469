"""The directions in which the rows of a matrix are large: subspace iteration (LoRAct, arXiv 2509.23472)."""

import torch
from torch import Tensor

_ITERATIONS = 4
"""Products with the covariance; one separates directions of 2 : 1 in size by 4 : 1."""


@torch.no_grad()
def principal_directions(rows: Tensor, rank: int) -> Tensor:
    """An orthonormal basis (D, rank) of about the subspace that holds most of `rows` (n, D), in fp32.

    Its columns are sorted: the first k hold about as much as any k directions can. rank: at most D. Always starts from
    the same random directions.
    """
    rows = rows.float()
    generator = torch.Generator().manual_seed(rows.shape[1])
    basis = torch.randn(rows.shape[1], rank, generator=generator).to(rows.device)
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(rows.mT @ (rows @ basis)).Q
    projected = rows @ basis
    # Numbers that are none make the directions so; that they are there is for the loss to tell, not for an error here.
    turn = torch.linalg.eigh((projected.mT @ projected).nan_to_num(0, 0, 0)).eigenvectors
    turned: Tensor = basis @ turn.flip(1)
    return turned


def shares(rows: Tensor, basis: Tensor) -> Tensor:
    """Of |rows|^2, what each column of an orthonormal basis holds: (n, D) and (D, k) fp32 -> (k,)."""
    held = (rows @ basis).square().sum(0)
    return held / rows.square().sum().clamp_min(torch.finfo(rows.dtype).tiny)
