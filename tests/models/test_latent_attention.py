"""Latent attention against its definition written out, and its cached, absorbed form against the plain one."""

import math

import pytest
import torch
from torch import Tensor

from eco.models.layers.bitlinear import BitLinear
from eco.models.layers.differential import LambdaRange
from eco.models.layers.hybrid_cache import HybridCache, documents
from eco.models.layers.latent_attention import LatentAttention, document_attention, document_lengths, visible
from eco.models.layers.linear import StackedLinear
from eco.models.layers.rotary import Rotary, Rotation

WIDTH, HEADS, LATENT, ROPE, NOPE, VALUE, TIME = 24, 3, 10, 4, 8, 6, 13
KINDS = pytest.mark.parametrize("differential", [None, LambdaRange()], ids=["plain", "differential"])


def layer(differential: LambdaRange | None = None, *, quantised: bool = False, seed: int = 0) -> LatentAttention:
    """In float64 unless quantised, with weights so large that the maps are far from even."""
    sizes = {"latent": LATENT, "rope": ROPE, "nope": NOPE, "value": VALUE}
    made = LatentAttention(WIDTH, HEADS, **sizes, differential=differential, quantised=quantised, eps=1e-6)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4 + (parameter.ndim == 1))
    if made.differential is not None:
        made.differential.init_own(generator)
    return made if quantised else made.double()


def rotation(start: int, count: int) -> Rotation:
    rotary = Rotary(ROPE, 64, 50.0)
    rotary.fill_tables()
    return rotary(start, count)


def states(batch: int = 2, seed: int = 5) -> Tensor:
    return torch.randn(batch, TIME, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def normed(x: Tensor, weight: Tensor | float = 1.0, eps: float = 1e-6) -> Tensor:
    return x / (x.square().mean() + eps).sqrt() * weight


def turned(x: Tensor, position: int) -> Tensor:
    """Each pair (x[i], x[i + ROPE / 2]) by its angle, as a matrix."""
    y = x.clone()
    for i in range(ROPE // 2):
        # The layer's tables are fp32.
        angle = position * 50.0 ** (-2 * i / ROPE)
        cos, sin = (torch.tensor(f(angle), dtype=torch.float64).float().double() for f in (math.cos, math.sin))
        j = i + ROPE // 2
        y[i], y[j] = x[i] * cos - x[j] * sin, x[j] * cos + x[i] * sin
    return y


def written_out(m: LatentAttention, x: Tensor, first: Tensor | None = None) -> Tensor:
    """The layer position by position, head by head: keys and values of every head, a softmax over what is seen."""
    maps = 1 if m.differential is None else 2
    count = maps * HEADS
    cuts = [count * NOPE, count * ROPE, LATENT, ROPE]
    y = torch.zeros(*x.shape[:2], HEADS, VALUE, dtype=x.dtype)
    for b in range(len(x)):
        read = [part.split(cuts) for part in x[b] @ m.input.weight.T]
        latents = [normed(r[2], m.latent_norm.weight) for r in read]
        rope_keys = [turned(normed(r[3], m.rope_key_norm.weight), t) for t, r in enumerate(read)]
        for t in range(x.shape[1]):
            begin = 0 if first is None else int(first[b, t])
            for h in range(HEADS):
                value = m.up.weight[count * NOPE :].view(HEADS, VALUE, LATENT)[h]
                chances = []
                for head in range(h, count, HEADS):
                    key = m.up.weight[: count * NOPE].view(count, NOPE, LATENT)[head]
                    content = read[t][0].view(count, NOPE)[head]
                    content = content / ((key.T @ content).square().mean() + m.eps).sqrt() * m.content_gain[head]
                    rope = turned(normed(read[t][1].view(count, ROPE)[head]) * m.rope_gain[head], t)
                    scores = [content @ (key @ latents[s]) + rope @ rope_keys[s] for s in range(begin, t + 1)]
                    chances.append((torch.stack(scores) / math.sqrt(NOPE + ROPE)).softmax(0))
                weights = chances[0]
                if m.differential is not None:
                    d = m.differential
                    free = torch.exp(d.query_1 @ d.key_1) - torch.exp(d.query_2 @ d.key_2) + d.limits.init
                    weights = weights - min(max(free, d.limits.min), d.limits.max) * chances[1]
                for weight, s in zip(weights, range(begin, t + 1), strict=True):
                    y[b, t, h] += weight * (value @ latents[s])
    for b in range(len(x)):
        for t in range(x.shape[1]):
            if m.differential is None:
                y[b, t] = normed(y[b, t].flatten(), m.output_norm.weight).view(HEADS, VALUE)
            else:
                for h in range(HEADS):
                    y[b, t, h] = normed(y[b, t, h], m.output_norm.weight) * (1 - m.differential.limits.init)
    return y.flatten(2) @ m.output.weight.T


FIRST = torch.tensor([[0] * 5 + [5] * 1 + [6] * 7, [0] * 13])


@KINDS
@pytest.mark.parametrize("first", [None, FIRST], ids=["one", "documents"])
def test_it_is_what_it_says(differential: LambdaRange | None, first: Tensor | None) -> None:
    m, x = layer(differential), states()
    with torch.no_grad():
        torch.testing.assert_close(m(x, rotation(0, TIME), first), written_out(m, x, first), atol=1e-9, rtol=0)


@KINDS
@pytest.mark.parametrize("chunks", [(13,), (1,) * 13, (6, 1, 1, 5), (1, 12)], ids=str)
@torch.no_grad()
def test_cached_equals_whole(differential: LambdaRange | None, chunks: tuple[int, ...]) -> None:
    m, x = layer(differential), states()
    cache = cache_for(2)
    torch.testing.assert_close(in_chunks(m, x, chunks, cache), m(x, rotation(0, TIME)), atol=1e-9, rtol=0)


@KINDS
@pytest.mark.parametrize("chunks", [(13,), (1,) * 13, (6, 1, 1, 5)], ids=str)
@torch.no_grad()
def test_cached_documents_and_padding(differential: LambdaRange | None, chunks: tuple[int, ...]) -> None:
    """Row 0: two positions of padding, then two documents; row 1: three documents."""
    m, x = layer(differential), states()
    ends = torch.zeros(2, TIME, dtype=torch.bool)
    ends[0, 7] = ends[1, 3] = ends[1, 4] = True
    y = in_chunks(m, x, chunks, cache_for(2, torch.tensor([2, 0])), ends)
    for row, begin, end in ((0, 2, 8), (0, 8, 13), (1, 0, 4), (1, 4, 5), (1, 5, 13)):
        alone = m(x[row : row + 1, begin:end], rotation(0, end - begin))
        torch.testing.assert_close(y[row : row + 1, begin:end], alone, atol=1e-6, rtol=0)


@KINDS
def test_a_packed_document_is_read_as_if_alone(differential: LambdaRange | None) -> None:
    m, x = layer(differential), states(1).requires_grad_()
    ends = torch.zeros(1, TIME, dtype=torch.bool)
    ends[0, 5] = True
    packed = m(x, rotation(0, TIME), documents(ends)[1])[:, 6:]
    # Only differences of positions count, up to the rounding of the fp32 tables.
    torch.testing.assert_close(packed, m(x[:, 6:], rotation(0, TIME - 6)), atol=1e-6, rtol=0)
    (gradient,) = torch.autograd.grad(packed.square().sum(), x)
    assert (gradient[:, :6] == 0).all() and (gradient[:, 6:] != 0).any()


@KINDS
def test_causality(differential: LambdaRange | None) -> None:
    m, x = layer(differential), states().requires_grad_()
    (gradient,) = torch.autograd.grad(m(x, rotation(0, TIME))[:, 7].square().sum(), x)
    assert (gradient[:, 8:] == 0).all() and (gradient[:, :8] != 0).any(-1).all()


@torch.no_grad()
def test_only_differences_of_positions_count() -> None:
    """Scores, and so the result, are the same 20 positions on; the length of what is turned does not change."""
    m, x = layer(), states()
    torch.testing.assert_close(m(x, rotation(0, TIME)), m(x, rotation(20, TIME)), atol=1e-6, rtol=0)
    here, there = m._read(x, rotation(0, TIME)), m._read(x, rotation(20, TIME))
    for near, far in ((here.rope_key, there.rope_key), (here.rope_query, there.rope_query)):
        assert (near - far).abs().max() > 0.1
        torch.testing.assert_close(near.norm(dim=-1), far.norm(dim=-1), atol=1e-6, rtol=0)
    scores = [torch.einsum("bthr,bsr->bhts", read.rope_query, read.rope_key) for read in (here, there)]
    torch.testing.assert_close(*scores, atol=1e-5, rtol=0)


@torch.no_grad()
def test_order_matters_only_through_the_rotary_part() -> None:
    """The last position reads the ones before it as a set, unless they are turned."""
    m, x = layer(), states(1)
    swapped = x[:, [1, 0, *range(2, TIME)]]
    still = (torch.ones(TIME, ROPE // 2), torch.zeros(TIME, ROPE // 2))
    torch.testing.assert_close(m(x, still)[:, -1], m(swapped, still)[:, -1], atol=1e-9, rtol=0)
    assert (m(x, rotation(0, TIME)) - m(swapped, rotation(0, TIME)))[:, -1].abs().max() > 1e-3


@torch.no_grad()
def test_the_cache_holds_a_latent_and_a_rotary_key() -> None:
    m, kept = layer(), []

    class Recording:
        start = 0

        def append(self, latent: Tensor, rope_key: Tensor) -> tuple[Tensor, Tensor]:
            kept.extend((latent, rope_key))
            return latent, rope_key

    m(states(), rotation(0, TIME), None, Recording())
    assert sum(x.numel() for x in kept) == 2 * TIME * (LATENT + ROPE)


@KINDS
@pytest.mark.parametrize("quantised", [False, True])
def test_every_parameter_gets_a_gradient(differential: LambdaRange | None, quantised: bool) -> None:
    m = layer(differential, quantised=quantised)
    x = states().to(m.up.weight.dtype)
    m(x, rotation(0, TIME)).square().sum().backward()
    for name, parameter in m.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and (parameter.grad != 0).any(), name


def test_what_is_quantised() -> None:
    m = layer(quantised=True)
    assert type(m.input) is type(m.output) is BitLinear and type(m.up) is StackedLinear
    with torch.no_grad():
        x = states().float()
        cached = in_chunks(m, x, (6, 1, 6), cache_for(2, dtype=torch.float32))
        torch.testing.assert_close(cached, m(x, rotation(0, TIME)), atol=1e-4, rtol=0)


@KINDS
@torch.no_grad()
def test_scores_stay_bounded_whatever_the_weights(differential: LambdaRange | None) -> None:
    """QK-norm holds with absorbed keys: queries and keys a thousand times as long give the same scores."""
    m, x = layer(differential), states()
    before = m(x, rotation(0, TIME))
    queries = m.query_heads * (NOPE + ROPE)
    m.input.weight[:queries] *= 1000
    m.up.weight[: m.query_heads * NOPE] *= 1000
    m.input.weight[-ROPE:] *= 1000
    torch.testing.assert_close(m(x, rotation(0, TIME)), before, atol=1e-4, rtol=0)
    torch.testing.assert_close(in_chunks(m, x, (6, 7), cache_for(2)), before, atol=1e-4, rtol=0)
    latents = m._read(x, rotation(0, TIME)).latent
    longest = LATENT**0.5 * m.content_gain.abs().max() * latents.norm(dim=-1).max()
    longest += ROPE * m.rope_gain.abs().max() * m.rope_key_norm.weight.abs().max()
    scores = torch.einsum("bthl,bsl->bhts", absorbed_queries(m, x), latents)
    assert 1 < scores.abs().max() <= longest


@torch.no_grad()
def test_the_metric_bounds_the_scores() -> None:
    m, x = layer(), states()
    m.content_gain[1] *= 50
    m(x, rotation(0, TIME))
    read = m._read(x, rotation(0, TIME))
    scores = torch.einsum("bthl,bsl->hbts", absorbed_queries(m, x), read.latent)
    scores += torch.einsum("bthr,bsr->hbts", read.rope_query, read.rope_key)
    greatest = scores.flatten(1).abs().amax(1) / math.sqrt(NOPE + ROPE)
    peak, mean = m.metrics["qk_max_peak"], m.metrics["qk_max_mean"]
    assert greatest.max() <= peak < 4 * greatest.max()
    assert greatest.mean() <= mean < peak / 2


@KINDS
@torch.no_grad()
def test_bf16_stays_close(differential: LambdaRange | None) -> None:
    m, x = layer(differential).float(), states().float()
    exact = m(x, rotation(0, TIME))
    with torch.autocast("cpu", torch.bfloat16):
        whole = m(x, rotation(0, TIME))
        cached = in_chunks(m, x, (6, 1, 6), cache_for(2, dtype=torch.bfloat16))
    assert whole.dtype == cached.dtype == torch.bfloat16
    for y in (whole, cached):
        assert (y.float() - exact).norm() / exact.norm() < 0.03


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_documents_one_by_one_or_by_a_mask(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(2, TIME, 3, 32, generator=generator).to(dtype).requires_grad_() for _ in range(2))
    v = torch.randn(2, TIME, 3, 8, generator=generator).to(dtype).requires_grad_()
    found = document_attention(q, k, v, FIRST)
    mask = visible(FIRST, 0, TIME, q.device)
    scores = (q.double().transpose(1, 2) @ k.double().transpose(1, 2).mT / math.sqrt(32)).masked_fill(~mask, -torch.inf)
    expected = (scores.softmax(-1) @ v.double().transpose(1, 2)).transpose(1, 2)
    allowed = 1e-9 if dtype == torch.float64 else 0.02
    gradients = [torch.autograd.grad(y.double().square().sum(), (q, k, v)) for y in (found, expected)]
    for one, other in zip((found, *gradients[0]), (expected, *gradients[1]), strict=True):
        assert (one.double() - other.double()).norm() <= allowed * other.double().norm()


def test_lengths_of_documents() -> None:
    assert document_lengths(FIRST) == [5, 1, 7, 13]
    padded = torch.tensor([[2, 2, 2, 2, 4], [0, 0, 0, 3, 3]])
    assert document_lengths(padded) == [1, 1, 2, 1, 3, 2], "padding before a document sees itself"


def test_a_query_that_could_see_nothing_sees_itself() -> None:
    mask = visible(torch.tensor([[3, 3, 3, 3]]), 0, 4, torch.device("cpu"))
    assert mask is not None and torch.equal(mask[0, 0], torch.eye(4, dtype=torch.bool))


def test_values_must_fit() -> None:
    with pytest.raises(ValueError, match="values of 16 numbers do not fit into keys of nope 8"):
        LatentAttention(8, 1, latent=4, rope=2, nope=8, value=16, differential=None, quantised=False, eps=1e-6)


def absorbed_queries(m: LatentAttention, x: Tensor) -> Tensor:
    """(B, T, maps x H, latent), as they meet the latents."""
    queries = m.input(x)[..., : m.query_heads * NOPE].unflatten(-1, (m.query_heads, NOPE))
    absorbed = torch.einsum("bthn,hnl->bthl", queries, m.up.weight[: m.query_heads * NOPE].view(-1, NOPE, LATENT))
    return absorbed / (absorbed.square().mean(-1, keepdim=True) + m.eps).sqrt() * m.content_gain[:, None]


def cache_for(batch: int, padding: Tensor | None = None, dtype: torch.dtype = torch.float64) -> HybridCache:
    sizes = LATENT, ROPE
    return HybridCache(["latent"], batch, TIME, sizes, dtype=dtype, device=torch.device("cpu"), padding=padding)


def in_chunks(
    m: LatentAttention, x: Tensor, chunks: tuple[int, ...], cache: HybridCache, ends: Tensor | None = None
) -> Tensor:
    """ends: (B, T) bool, where documents end; None: nowhere, and the layer is told of no documents."""
    y = []
    nowhere = torch.zeros(x.shape[:2], dtype=torch.bool)
    parts = zip(x.split(chunks, dim=1), (nowhere if ends is None else ends).split(chunks, dim=1), strict=True)
    for part, part_ends in parts:
        _, first = cache.extend(part_ends)
        turn = rotation(cache.length - part.shape[1], part.shape[1])
        y.append(m(part, turn, None if ends is None else first, cache.pasts[0]))
    return torch.cat(y, dim=1)
