"""SOAP's step of one matrix (Vyas et al., arXiv 2409.11321): Adam in the slowly turning eigenbasis of Shampoo.

For a gradient G (rows, columns), L and R being running means of G G^T and G^T G with the eigenvectors Q and P:

    L <- beta2 L + (1 - beta2) G G^T;   R <- beta2 R + (1 - beta2) G^T G
    G' = Q^T G P;   M' <- beta1 M' + (1 - beta1) G';   V <- beta2 V + (1 - beta2) G'^2
    step = Q [M'' / (sqrt(V'') + eps)] P^T

M'' and V'' being without the bias of their start. M' is kept in the basis and turned with it: the same as the paper's
M, projected at each step, for a third less arithmetic. A side without a basis has the identity.
"""

from math import sqrt

import torch
from torch import Tensor

Matrix = dict[str, Tensor]
"""State of one matrix: `mean` M' and `square` V (rows, columns); for each side that has a basis the mean of products,
`left_products` (rows, rows) or `right_products`, and its eigenvectors in columns, `left` or `right`."""


def begin(gradient: Tensor, beta2: float, largest_side: int) -> Matrix:
    """The state after the first gradient, which only starts the bases, of sides no longer than `largest_side`.

    In its own eigenbasis a gradient is diagonal, and Adam would blow up the rounding errors beside the diagonal.
    """
    state = {"mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
    for side, factor in (("left", gradient), ("right", gradient.T)):
        if len(factor) <= largest_side:
            state[f"{side}_products"] = (factor @ factor.T).mul_(1 - beta2)
            eigenvectors: Tensor = torch.linalg.eigh(state[f"{side}_products"]).eigenvectors
            state[side] = eigenvectors.flip(1).contiguous()  # the largest eigenvalue first
    return state


def step(state: Matrix, gradient: Tensor, *, betas: tuple[float, float], eps: float, count: int) -> Tensor:
    """Takes the gradient in; what a step of lr 1 subtracts. count: gradients since the first, this one included."""
    beta1, beta2 = betas
    for side, factor in (("left", gradient), ("right", gradient.T)):
        if side in state:
            state[f"{side}_products"].addmm_(factor, factor.T, beta=beta2, alpha=1 - beta2)
    turned = into(state, gradient)
    state["mean"].lerp_(turned, 1 - beta1)
    state["square"].mul_(beta2).addcmul_(turned, turned, value=1 - beta2)
    size = state["square"].sqrt().mul_(1 / sqrt(1 - beta2**count)).add_(eps)
    return out_of(state, state["mean"].div(size).mul_(1 / (1 - beta1**count)))


def refresh(state: Matrix) -> None:
    """One step of power iteration brings the bases nearer to the eigenvectors of the products as they are now.

    Basis vectors are first put into the order of their estimated eigenvalues, largest first, in which the QR
    decomposition makes them converge.
    """
    mean = out_of(state, state["mean"])
    for dimension, side in enumerate(("left", "right")):
        if side not in state:
            continue
        basis, products = state[side], state[f"{side}_products"]
        ahead = products @ basis
        order = (basis * ahead).sum(0).argsort(descending=True, stable=True)
        state["square"] = state["square"].index_select(dimension, order)
        state[side] = torch.linalg.qr(ahead[:, order]).Q
    state["mean"] = into(state, mean)


def into(state: Matrix, x: Tensor) -> Tensor:
    """x (rows, columns) seen in the basis."""
    x = state["left"].T @ x if "left" in state else x
    return x @ state["right"] if "right" in state else x


def out_of(state: Matrix, x: Tensor) -> Tensor:
    """The inverse of `into`."""
    x = state["left"] @ x if "left" in state else x
    return x @ state["right"].T if "right" in state else x
