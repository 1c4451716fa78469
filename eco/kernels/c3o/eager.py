"""C3O in plain torch, for any device: nothing waits for it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from eco.kernels.adamw.eager import rounded
from eco.kernels.adamw.rule import mix
from eco.kernels.c3o.layout import LINE, PIECE, Layout, Run
from eco.kernels.c3o.rule import Factors

CHUNK = 1 << 24
"""Elements whose random bits are drawn at a time: the hash takes tens of bytes for each."""


def c3o_(
    weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, scales: Tensor | None, at: Layout, f: Factors
) -> Tensor:
    """See `eco.kernels.c3o.c3o_`. Each operation is rounded by itself, as in the C++."""
    w, g, m, v = weight.detach().view(-1), gradient.reshape(-1), mean.view(-1), square.view(-1)
    _move_moments(g, m, v, f)
    update = direction(m, v, f)
    plain, weights = _sums(update.square(), at), _sums(w.square(), at)
    scaled = plain if scales is None else plain * scales.double()[at.owner].square()
    outcome = _outcome(halved(plain), halved(scaled), halved(weights), f)
    if scales is not None:
        scales.mul_(outcome[3].float())
    for run, sizes in zip(at.runs, _sizes(outcome[0].float(), scales, at), strict=True):
        rows = _rows(w, run)
        rows.copy_((rows * f.decay).sub_(_rows(update, run) * sizes))
    return outcome[:3].float()


def change(mean: Tensor, square: Tensor, size: Tensor, scales: Tensor | None, at: Layout, f: Factors) -> Tensor:
    """See `eco.kernels.c3o.change`."""
    update = direction(mean.view(-1), square.view(-1), f)
    for run, sizes in zip(at.runs, _sizes(size, scales, at), strict=True):
        _rows(update, run).mul_(-sizes)
    return update.view(mean.shape)


def direction(mean: Tensor, square: Tensor, f: Factors) -> Tensor:
    """The update before its size, fp32, of the moments as they are stored."""
    root = square.double().sqrt_().float()  # torch's own root of fp32 may be off by the last bit
    return mean.float() / root.mul_(f.root).add_(f.damping)


def halved(sums: Tensor) -> Tensor:
    """(..., n) -> (...): the sum over the last dimension, filled up with zeros to a power of two and folded in half
    again and again: accurate, and the same additions on every device."""
    count = 1 << (sums.shape[-1] - 1).bit_length()
    sums = F.pad(sums, (0, count - sums.shape[-1]))
    while count > 1:
        count //= 2
        sums = sums[..., :count] + sums[..., count:]
    return sums[..., 0]


def _move_moments(g: Tensor, m: Tensor, v: Tensor, f: Factors) -> None:
    for index, (g_, m_, v_) in enumerate(zip(*(torch.split(x, CHUNK) for x in (g, m, v)), strict=True)):
        moment1 = m_.float().mul_(f.beta1) if m_.dtype == torch.bfloat16 else m_.mul_(f.beta1)
        moment2 = v_.float().mul_(f.beta2) if v_.dtype == torch.bfloat16 else v_.mul_(f.beta2)
        moment1.add_(g_ * f.one_less_beta1)
        moment2.add_((g_ * f.one_less_beta2).mul_(g_))
        if m.dtype == torch.bfloat16:
            bits = mix(torch.arange(index * CHUNK, index * CHUNK + len(g_), device=g.device) ^ f.key)
            m_.copy_(rounded(moment1, bits & 0xFFFF))
            v_.copy_(rounded(moment2, bits >> 16))


def _sums(squares: Tensor, at: Layout) -> Tensor:
    """(pieces,) float64."""
    parts = []
    for run in at.runs:
        width = PIECE if run.length > PIECE else LINE
        rows = F.pad(_rows(squares, run), (0, -run.length % width))
        lines = rows.view(-1, min(rows.shape[1], PIECE) // LINE, LINE)
        total = lines[:, 0]
        for line in range(1, lines.shape[1]):
            total = total + lines[:, line]
        parts.append(halved(total).double())
    return torch.cat(parts)


def _outcome(plain: Tensor, scaled: Tensor, weights: Tensor, f: Factors) -> Tensor:
    """(4,) float64: size, norm and trust ratio of the update, and what evens the scales."""
    evening = torch.where(scaled > 0, plain / scaled, 1.0).sqrt()
    norm, limit = plain.sqrt() * f.size, weights.sqrt().clamp(min=f.least_norm) * f.radius
    trust = torch.where(norm > limit, limit / norm, 1.0)
    return torch.stack([trust * f.size, norm * trust, trust, evening])


def _sizes(size: Tensor, scales: Tensor | None, at: Layout) -> list[Tensor]:
    """Of each run, what the update of its blocks is multiplied by: (blocks, 1), or a scalar without scales."""
    if scales is None:
        return [size] * len(at.runs)
    return [sizes[:, None] for sizes in torch.split(size * scales, [run.blocks for run in at.runs])]


def _rows(flat: Tensor, run: Run) -> Tensor:
    """The blocks of a run as the rows of a matrix, a view."""
    return flat[run.begin : run.begin + run.blocks * run.length].view(run.blocks, run.length)
