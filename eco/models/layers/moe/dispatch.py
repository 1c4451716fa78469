"""How tokens come to their experts and back: three ways to the same numbers.

`grouped` sorts the rows by expert, so that each layer of all experts is one grouped product. On a GPU the host never
waits for it in full precision; ternary weights take a loop over the experts. `packed` sorts too, but calls one expert
after the other; `legacy` does not even sort: it looks for each expert's tokens. The gradients of these two are
autograd's own, one of the size of all experts' weights per expert.
"""

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from eco.kernels.grouped import combine_rows, gather_rows
from eco.models.layers.moe.experts import Experts
from eco.models.layers.moe.router import expert_load

ALIGNMENT = 32
"""On a CPU each expert's rows begin at a multiple of this, where there are so many of them that it costs little. The
products are a fifth faster at such sizes, and oneDNN compiles a kernel of its own for every size that it meets."""


class Plan(NamedTuple):
    """N tokens with k experts each as n >= N * k rows, sorted by expert; of equal experts the earlier token is first.

    Rows that only fill an expert's up stand for some token and come back to none.
    """

    token: Tensor
    """(n,) int64: each row's token."""
    row: Tensor
    """(N, k) int64: the row of each of a token's choices."""
    offsets: Tensor
    """(E + 1,) int32: where each expert's rows begin, and the last one's end."""


def plan(experts: Tensor, count: int) -> Plan:
    """Sorts the choices `experts` (N, k) of `count` experts. The host does not wait for the device."""
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    load = expert_load(flat, count)
    rows = torch.arange(len(order), device=order.device)
    if order.device.type == "cpu" and len(flat) >= 4 * ALIGNMENT * count:
        filled = -(-load // ALIGNMENT) * ALIGNMENT
        rows += (filled - load).cumsum(0).sub_(filled - load)[flat[order]]
        token = order.new_zeros(int(filled.sum())).index_copy_(0, rows, order // experts.shape[1])
        load = filled
    else:
        token = order // experts.shape[1]
    row = torch.empty_like(order).scatter_(0, order, rows)
    return Plan(token, row.view_as(experts), F.pad(load.cumsum(0, dtype=torch.int32), (1, 0)))


def grouped(x: Tensor, experts: Tensor, gates: Tensor, networks: Experts) -> Tensor:
    """x (N, W), the experts of each token (N, k) ascending and their weights -> (N, W)."""
    places = plan(experts, networks.count)
    y = networks(gather_rows(x, places.token, places.row), places.offsets)
    return combine_rows(y, gates, places.row)


def packed(x: Tensor, experts: Tensor, gates: Tensor, networks: Experts) -> Tensor:
    """See `grouped`."""
    places = plan(experts, networks.count)
    rows, ends = x[places.token], itertools.pairwise(places.offsets.tolist())
    y = torch.cat([networks.one(rows[start:end], expert) for expert, (start, end) in enumerate(ends)])
    return (y[places.row] * gates[..., None]).sum(1).to(y.dtype)


def legacy(x: Tensor, experts: Tensor, gates: Tensor, networks: Experts) -> Tensor:
    """See `grouped`."""
    total = gates.new_zeros(x.shape)
    for expert in range(networks.count):
        token, choice = (experts == expert).nonzero(as_tuple=True)
        y = networks.one(x[token], expert)
        total = total.index_add(0, token, y * gates[token, choice, None])
    return total.to(y.dtype)


DISPATCHES = {"grouped": grouped, "packed": packed, "legacy": legacy}
