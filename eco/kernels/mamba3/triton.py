"""The scan over chunks of the Mamba-3 mixer in Triton, with its own backward: fp32, fp16 and bf16.

One program per sequence and head goes through the chunks in order and keeps the memory with it; the backward goes back
through them from the memory before each, which the forward has written down. Rows are (position, rank), as in
`eco.kernels.mamba3.eager`, whose meaning and preparation of the inputs this shares.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

MOST_ROWS = 32
"""Rows of a chunk: several matrices of row times row have to fit into the registers of a program."""

MOST_MEMORY_BYTES = 16 << 10
"""Of a head's memory in the dtype of the products: the backward holds several in the memory that a program shares."""


def able(rank: int, entries: int, channels: int, dtype: torch.dtype) -> bool:
    """Whether the kernels do mixers of this size with products in `dtype`."""
    return rank <= MOST_ROWS and _block(entries) * _block(channels) * dtype.itemsize <= MOST_MEMORY_BYTES


def scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    gain: Tensor,
    merged: Tensor,
    start: Tensor,
    documents: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Chunks of c positions with R rows each; c R at most MOST_ROWS.

    q, k: (B, H, n, c R, N) and v: (B, H, n, c R, P) in one dtype; log_decay, gain, merged: (B, H, n, c) fp32; start:
    (B, H, N, P) fp32; documents: (B, 1, n, c + 1) int, each position's document after that of the position before the
    chunk. Returns y, shaped as v, and the memory after the last chunk.
    """
    y: Tensor
    last: Tensor
    y, last = _TritonScan.apply(q, k, v, log_decay, gain, merged, start, documents)
    return y, last


class _TritonScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor,
        gain: Tensor,
        merged: Tensor,
        start: Tensor,
        documents: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        rows = q.contiguous(), k.contiguous(), v.contiguous()
        numbers = log_decay.double().cumsum(-1), gain.contiguous(), merged.contiguous()
        documents = None if documents is None else documents.contiguous()
        y, last = torch.empty_like(rows[2]), torch.empty_like(start)
        memories = start.new_empty(*v.shape[:3], *start.shape[2:])
        sizes = _sizes(q, v, gain)
        _forward[(_programs(q),)](*rows, *numbers, start.contiguous(), documents, y, memories, last, **sizes)
        ctx.save_for_backward(*rows, *numbers, documents, memories)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, total, gain, merged, documents, memories = ctx.saved_tensors
        drows = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        by_rank = gain.new_empty(3, *gain.shape, q.shape[3] // gain.shape[3])
        dstart = torch.empty_like(dlast, memory_format=torch.contiguous_format)
        inputs = q, k, v, total, gain, merged, documents, memories, dy.contiguous(), dlast.contiguous()
        _backward[(_programs(q),)](*inputs, *drows, *by_rank, dstart, **_sizes(q, v, gain))
        ddecay, dgain, dmerged = by_rank
        return *drows, ddecay[..., 0].contiguous(), dgain.sum(-1), dmerged.sum(-1), dstart, None


def _block(size: int) -> int:
    """The side of a block for so many rows or columns: products take powers of two, from 16 on."""
    return max(16, 1 << (size - 1).bit_length())


def _programs(q: Tensor) -> int:
    return q.shape[0] * q.shape[1]


def _sizes(q: Tensor, v: Tensor, gain: Tensor) -> dict[str, Any]:
    """The number of heads and chunks, and what the kernels are compiled for."""
    _, heads, chunks, rows, entries = q.shape
    positions, channels = gain.shape[3], v.shape[4]
    blocks = map(_block, (rows, entries, channels))
    return {
        "heads": heads, "chunks": chunks, "C": positions, "R": rows // positions, "N": entries, "P": channels,
        "PRECISION": "tf32x3" if q.dtype == torch.float32 else "tf32",
        **dict(zip(("ROWS", "ENTRIES", "CHANNELS"), blocks, strict=True)), "num_warps": 8, "num_stages": 1,
    }  # fmt: skip


@triton.jit
def _numbers(
    total, gain, merged, documents, chunk, sequence_chunk, C: tl.constexpr, R: tl.constexpr, ROWS: tl.constexpr
):
    """How much is left of what, as in `eco.kernels.mamba3.eager`, but by rows.

    between, own: (rows i, rows j), at i of what j took in before, and of what all ranks take in at the same position;
    into: at i of the memory before the chunk; after: after the chunk of what j took in; through: after it of the memory
    before it. weight: what j takes in, in the eyes of later positions.
    """
    row = tl.arange(0, ROWS)
    position = row // R
    real = row < C * R
    s = tl.load(total + chunk * C + position, mask=real, other=0.0)  # float64: its differences must not blur
    s_last = tl.load(total + chunk * C + C - 1)
    own_gain = tl.load(gain + chunk * C + position, mask=real, other=0.0)
    weight = tl.load(merged + chunk * C + position, mask=real, other=0.0)
    seen = (position[:, None] > position[None, :]) & real[:, None]
    into, after, through = tl.exp(s.to(tl.float32)), tl.exp((s_last - s).to(tl.float32)), tl.exp(s_last.to(tl.float32))
    if documents is not None:
        documents += sequence_chunk * (C + 1)
        before, last = tl.load(documents), tl.load(documents + C)
        here = tl.load(documents + 1 + position, mask=real, other=-1)
        seen = seen & (here[:, None] == here[None, :])
        into = tl.where(here == before, into, 0.0)
        after = tl.where(here == last, after, 0.0)
        through = tl.where(before == last, through, 0.0)
    between = tl.exp(tl.where(seen, (s[:, None] - s[None, :]).to(tl.float32), float("-inf")))
    own = tl.where(position[:, None] == position[None, :], own_gain[None, :], 0.0)
    return between, own, into, after, through, weight


@triton.jit
def _tile(base, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Addresses of a matrix (HEIGHT, WIDTH) from `base` on, in a block (ROWS, COLUMNS), and where it has entries."""
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    return base + row * WIDTH + column, (row < HEIGHT) & (column < WIDTH)


@triton.jit
def _forward(
    q, k, v, total, gain, merged, start, documents, y, memories, last, heads, chunks,
    C: tl.constexpr, R: tl.constexpr, N: tl.constexpr, P: tl.constexpr,
    ROWS: tl.constexpr, ENTRIES: tl.constexpr, CHANNELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    at, there = _tile(start + program * N * P, N, P, ENTRIES, CHANNELS)
    memory = tl.load(at, mask=there, other=0.0)
    for step in range(chunks):
        chunk = program * chunks + step
        memory_at, memory_there = _tile(memories + chunk * N * P, N, P, ENTRIES, CHANNELS)
        tl.store(memory_at, memory, mask=memory_there)
        between, own, into, after, through, weight = _numbers(
            total, gain, merged, documents, chunk, program // heads * chunks + step, C, R, ROWS
        )
        keys_at, keys_there = _tile(chunk * (C * R * N), C * R, N, ROWS, ENTRIES)
        values_at, values_there = _tile(chunk * (C * R * P), C * R, P, ROWS, CHANNELS)
        queries = tl.load(q + keys_at, mask=keys_there, other=0.0)
        keys = tl.load(k + keys_at, mask=keys_there, other=0.0)
        values = tl.load(v + values_at, mask=values_there, other=0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * (between * weight[None, :] + own)
        out = tl.dot(queries, memory.to(queries.dtype), input_precision=PRECISION) * into[:, None]
        out += tl.dot(scores.to(values.dtype), values, input_precision=PRECISION)
        tl.store(y + values_at, out.to(values.dtype), mask=values_there)
        leaving = (keys * (after * weight)[:, None]).to(keys.dtype)
        memory = memory * through + tl.dot(tl.trans(leaving), values, input_precision=PRECISION)
    at, there = _tile(last + program * N * P, N, P, ENTRIES, CHANNELS)
    tl.store(at, memory, mask=there)


@triton.jit
def _backward(
    q, k, v, total, gain, merged, documents, memories, dy, dlast,
    dq, dk, dv, ddecay, dgain, dmerged, dstart, heads, chunks,
    C: tl.constexpr, R: tl.constexpr, N: tl.constexpr, P: tl.constexpr,
    ROWS: tl.constexpr, ENTRIES: tl.constexpr, CHANNELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, ROWS)
    position = row // R
    same = position[None, :] == position[:, None]
    earlier = position[None, :] < position[:, None]
    later_or_same = (position[None, :] >= position[:, None]).to(tl.float32)
    at, there = _tile(dlast + program * N * P, N, P, ENTRIES, CHANNELS)
    dmemory = tl.load(at, mask=there, other=0.0)
    for done in range(chunks):
        step = chunks - 1 - done
        chunk = program * chunks + step
        between, own, into, after, through, weight = _numbers(
            total, gain, merged, documents, chunk, program // heads * chunks + step, C, R, ROWS
        )
        keys_at, keys_there = _tile(chunk * (C * R * N), C * R, N, ROWS, ENTRIES)
        values_at, values_there = _tile(chunk * (C * R * P), C * R, P, ROWS, CHANNELS)
        queries = tl.load(q + keys_at, mask=keys_there, other=0.0)
        keys = tl.load(k + keys_at, mask=keys_there, other=0.0)
        values = tl.load(v + values_at, mask=values_there, other=0.0)
        douts = tl.load(dy + values_at, mask=values_there, other=0.0)
        memory_at, memory_there = _tile(memories + chunk * N * P, N, P, ENTRIES, CHANNELS)
        memory = tl.load(memory_at, mask=memory_there, other=0.0)
        low, dlow = memory.to(keys.dtype), dmemory.to(keys.dtype)

        # What came in from the memory before the chunk, and what went into the one after it.
        dqueries = tl.dot(douts, tl.trans(low), input_precision=PRECISION)
        dkeys = tl.dot(values, tl.trans(dlow), input_precision=PRECISION)
        dinto = into * tl.sum(dqueries * queries, 1)
        dleaving = after * tl.sum(dkeys * keys, 1)
        dthrough = through * tl.sum(dmemory * memory)
        dqueries *= into[:, None]
        dkeys *= (after * weight)[:, None]
        leaving = (keys * (after * weight)[:, None]).to(keys.dtype)
        dvalues = tl.dot(leaving, dlow, input_precision=PRECISION)

        # What stayed within it.
        pairs = between * weight[None, :] + own
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
        dscores = tl.dot(douts, tl.trans(values), input_precision=PRECISION)
        dpairs = scores * dscores
        scores = (scores * pairs).to(keys.dtype)
        dscores = (dscores * pairs).to(keys.dtype)
        dqueries += tl.dot(dscores, keys, input_precision=PRECISION)
        dkeys += tl.dot(tl.trans(dscores), queries, input_precision=PRECISION)
        dvalues += tl.dot(tl.trans(scores), douts, input_precision=PRECISION)
        tl.store(dq + keys_at, dqueries.to(keys.dtype), mask=keys_there)
        tl.store(dk + keys_at, dkeys.to(keys.dtype), mask=keys_there)
        tl.store(dv + values_at, dvalues.to(keys.dtype), mask=values_there)

        # A decay at t acts on whatever passes t: only such pairs are added up, so nothing is lost to cancellation.
        row_at, real = chunk * (C * R) + row, row < C * R
        tl.store(dgain + row_at, tl.sum(tl.where(same, dpairs, 0.0), 0), mask=real)
        dpairs *= between
        passing = tl.dot(later_or_same, dpairs * weight[None, :], input_precision="ieee")
        decays = tl.sum(tl.where(earlier, passing + (dleaving * weight)[None, :], 0.0), 1)
        decays += tl.sum(tl.where(earlier, 0.0, dinto[None, :]), 1) + dthrough
        tl.store(ddecay + row_at, decays, mask=real)
        tl.store(dmerged + row_at, tl.sum(dpairs, 0) + dleaving, mask=real)

        entering = (queries * into[:, None]).to(queries.dtype)
        dmemory = dmemory * through + tl.dot(tl.trans(entering), douts, input_precision=PRECISION)
    at, there = _tile(dstart + program * N * P, N, P, ENTRIES, CHANNELS)
    tl.store(at, dmemory, mask=there)
