"""How tokens come to their experts and back: three ways to the same numbers.

`grouped` sorts the rows by expert, so that each layer of all experts is one grouped product, and the host never waits
for the device. Both directions only gather, forward and backward: no row is written twice, so the result does not
depend on the order in which threads come by. `packed` sorts too, but calls one expert after the other; `legacy` does
not even sort: it looks for each expert's tokens. Their gradients are autograd's own, one of the size of all experts'
weights for each expert.
"""

import itertools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from eco.models.layers.moe.experts import Experts
from eco.models.layers.moe.router import expert_load


class Plan(NamedTuple):
    """N tokens with k experts each, as N * k rows sorted by expert; of equal experts the earlier token comes first."""

    token: Tensor
    """(N * k,) int64: each row's token."""
    row: Tensor
    """(N, k) int64: the row of each of a token's choices."""
    offsets: Tensor
    """(E + 1,) int32: where each expert's rows begin, and the last one's end."""


def plan(experts: Tensor, count: int) -> Plan:
    """Sorts the choices `experts` (N, k) of `count` experts. The host does not wait for the device."""
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    row = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    ends = expert_load(flat, count).cumsum(0, dtype=torch.int32)
    return Plan(order // experts.shape[1], row.view_as(experts), F.pad(ends, (1, 0)))


def gather(x: Tensor, way: Plan) -> Tensor:
    """x (N, W) -> (N * k, W): each row's token."""
    out: Tensor = _Gather.apply(x, way.token, way.row)  # type: ignore[no-untyped-call]
    return out


def combine(y: Tensor, gates: Tensor, way: Plan) -> Tensor:
    """y (N * k, W), gates (N, k) -> (N, W): the sum of each token's rows, weighted. Added in the dtype of the gates."""
    out: Tensor = _Combine.apply(y, gates, way.token, way.row)  # type: ignore[no-untyped-call]
    return out


def grouped(x: Tensor, experts: Tensor, gates: Tensor, networks: Experts) -> Tensor:
    """x (N, W), the experts of each token (N, k) ascending and their weights -> (N, W)."""
    way = plan(experts, networks.count)
    return combine(networks(gather(x, way), way.offsets), gates, way)


def packed(x: Tensor, experts: Tensor, gates: Tensor, networks: Experts) -> Tensor:
    """See `grouped`."""
    way = plan(experts, networks.count)
    rows, ends = x[way.token], itertools.pairwise(way.offsets.tolist())
    y = torch.cat([networks.one(rows[start:end], expert) for expert, (start, end) in enumerate(ends)])
    return (y[way.row] * gates[..., None]).sum(1).to(y.dtype)


def legacy(x: Tensor, experts: Tensor, gates: Tensor, networks: Experts) -> Tensor:
    """See `grouped`."""
    total = gates.new_zeros(x.shape)
    for expert in range(networks.count):
        token, choice = (experts == expert).nonzero(as_tuple=True)
        y = networks.one(x[token], expert)
        total = total.index_add(0, token, y * gates[token, choice, None])
    return total.to(y.dtype)


DISPATCHES = {"grouped": grouped, "packed": packed, "legacy": legacy}


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, row: Tensor) -> Tensor:
        ctx.save_for_backward(row)
        return x[token]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None, None]:
        (row,) = ctx.saved_tensors
        return dout[row].sum(1), None, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, gates: Tensor, token: Tensor, row: Tensor) -> Tensor:
        ctx.save_for_backward(y, gates, token, row)
        return (y[row] * gates[..., None]).sum(1).to(y.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, None, None]:
        y, gates, token, row = ctx.saved_tensors
        sorted_gates = torch.empty_like(gates).flatten().scatter_(0, row.flatten(), gates.flatten())
        dy = (dout[token] * sorted_gates[:, None]).to(y.dtype)
        dgates = (y[row] * dout[:, None].to(gates.dtype)).sum(-1)
        return dy, dgates, None, None
