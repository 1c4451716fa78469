"""Governance attention against its bias written out, position by position, in float64; and in the cache."""

import math

import pytest
import torch
from torch import Tensor, nn

from eco.models.governance.attention import PARTS, Forgetting, GovernedAttention, split
from eco.models.layers.attention import Attention
from eco.models.layers.cache import KVCache
from eco.models.layers.init import init_transformer
from eco.models.layers.rotary import Rotary, Rotation

WIDTH, HEADS, EPS = 128, 4, 1e-5
PARTS_OF = {"policy": (4, False), "forgetting": (0, True), "both": (6, True)}


@pytest.fixture(params=PARTS_OF)
def part(request: pytest.FixtureRequest) -> str:
    return request.param


def governed(part: str = "both", kv_heads: int = HEADS, init: bool = False, width: int = WIDTH) -> GovernedAttention:
    """As it starts (`init`), or with weights and scales so large that every part of it matters."""
    rank, forgetting = PARTS_OF[part]
    sizes = {"policy_rank": rank, "forgetting": forgetting, "features": 24, "dropout": 0.0, "norm_eps": EPS}
    layer = GovernedAttention(width, HEADS, kv_heads, **sizes)
    generator = torch.Generator().manual_seed(0)
    init_transformer(layer, 1, generator)
    if not init:
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * (1.0 if "scale" in name else 0.1))
            if layer.forgetting is not None:
                layer.forgetting.bias.copy_(torch.linspace(-1, 3, kv_heads))
    return layer


def rotation(start: int, count: int, size: int = WIDTH // HEADS) -> Rotation:
    rotary = Rotary(size, 4, 100.0)
    rotary.fill_tables()
    return rotary(start, count)


def inputs(batch: int = 2, time: int = 37, width: int = WIDTH) -> Tensor:
    return torch.randn(batch, time, width, generator=torch.Generator().manual_seed(3))


def reference(layer: GovernedAttention, x: Tensor, turn: Rotation) -> Tensor:
    """The layer in float64, with its bias as a tensor (B, H, T, T)."""
    weights = {name: p.double() for name, p in layer.named_parameters()}
    batch, time, _ = x.shape
    heads, kv_heads, size, group = layer.heads, layer.kv_heads, layer.head_size, layer.heads // layer.kv_heads
    x, (cos, sin) = x.double(), (angle.double() for angle in turn)
    qkv = (x @ weights["qkv.weight"].T).view(batch, time, -1, size).transpose(1, 2)
    q, k, v = qkv.split([heads, kv_heads, kv_heads], 1)

    def turned(y: Tensor) -> Tensor:
        a, b = y.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    scores = turned(q) @ turned(k).repeat_interleave(group, 1).mT / math.sqrt(size)
    f = (x @ weights["features.0.weight"].T).relu() @ weights["features.2.weight"].T
    f = f / (f.square().mean(-1, keepdim=True) + EPS).sqrt() * weights["features.3.weight"]
    read = f @ weights["reader.weight"].T
    at = 0
    if layer.policy is not None:
        rank = layer.policy.rank
        u = read[..., : heads * rank].view(batch, time, heads, rank)
        at = (heads + kv_heads) * rank
        keys = read[..., heads * rank : at].view(batch, time, kv_heads, rank).repeat_interleave(group, 2)
        policy = torch.einsum("bihr,bjhr,h->bhij", u, keys, weights["policy.scale"])
        salience = (read[..., at : at + kv_heads] * weights["policy.salience_scale"]).repeat_interleave(group, 2)
        at += kv_heads
        scores = scores + policy + salience.transpose(1, 2)[:, :, None]
    if layer.forgetting is not None:
        gate = (read[..., at:] + weights["forgetting.bias"]).sigmoid().repeat_interleave(group, 2)
        c = gate.log().cumsum(1).transpose(1, 2)
        scores = scores + c[..., :, None] - c[..., None, :]
    scores = scores.masked_fill(torch.ones(time, time, dtype=torch.bool).triu(1), -torch.inf)
    y = scores.softmax(-1) @ v.repeat_interleave(group, 1)
    return y.transpose(1, 2).flatten(2) @ weights["output.weight"].T


def plain(layer: GovernedAttention) -> Attention:
    """Attention with the same projections."""
    attention = Attention(WIDTH, layer.heads, layer.kv_heads, bias=False, dropout=0.0)
    attention.load_state_dict(layer.state_dict(), strict=False)
    return attention


def gradients(layer: nn.Module, output: Tensor) -> dict[str, Tensor]:
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(9))
    layer.zero_grad()
    (output.double() * direction.double()).sum().backward()
    return {name: p.grad.double() for name, p in layer.named_parameters() if p.grad is not None}


def distance(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("kv_heads", [HEADS, 2])
def test_it_is_attention_with_the_bias_written_out(part: str, kv_heads: int) -> None:
    layer, x, turn = governed(part, kv_heads), inputs(), rotation(0, 37)
    expected = reference(layer, x, turn)
    right = gradients(layer, expected)
    assert right.keys() == dict(layer.named_parameters()).keys()
    y, _ = layer(x, turn)
    assert distance(y, expected) < 1e-5
    assert distance(plain(layer)(x, turn), expected) > 0.05, "the bias matters here"
    found = gradients(layer, y)
    assert all(distance(found[name], right[name]) < 1e-4 for name in right)


@pytest.mark.parametrize("time", [37, 256])
def test_in_bf16_on_both_paths(part: str, time: int, path: str) -> None:
    """A gate's gradient is a small difference of long sums: it says how well the roundings cancel."""
    layer, x, turn = governed(part), inputs(2, time), rotation(0, time)
    expected = reference(layer, x, turn)
    right = gradients(layer, expected)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = layer(x, turn)
    found = gradients(layer, y)
    assert distance(y, expected) < 0.02
    for name in right:  # plain torch rounds the gradients of the bias to bf16 before they are summed
        assert distance(found[name], right[name]) < (0.08 if path == "cpp" else 0.3), name
    if path == "cpp" and layer.forgetting is not None:
        assert distance(found["forgetting.bias"], right["forgetting.bias"]) < 0.03


def test_a_policy_without_scale_is_plain_attention_to_the_bit(path: str) -> None:
    layer, x, turn = governed("policy", init=True), inputs(), rotation(0, 37)
    torch.testing.assert_close(layer(x, turn)[0], plain(layer)(x, turn), atol=1e-6, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = layer(x, turn)[0], plain(layer)(x, turn)
    if path == "cpp":
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0.02)


@pytest.mark.parametrize("autocast", [False, True])
def test_nothing_looks_ahead(part: str, autocast: bool) -> None:
    layer, x, turn = governed(part), inputs(), rotation(0, 37)
    changed = x.clone()
    changed[:, 20] += 1
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        before, after = layer(x, turn)[0], layer(changed, turn)[0]
    assert torch.equal(before[:, :20], after[:, :20])
    assert (before != after)[:, 20:].any(-1).all(), "and everything after it hears of it"


def test_every_parameter_learns(part: str) -> None:
    layer, x, turn = governed(part, init=True), inputs(), rotation(0, 37)
    first = gradients(layer, layer(x, turn)[0])
    started = [name for name in first if "scale" in name or name == "forgetting.bias"]
    assert len(started) == {"policy": 2, "forgetting": 1, "both": 3}[part]
    assert all(first[name].any() for name in started)
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    second = gradients(layer, layer(x, turn)[0])
    for name, parameter in layer.named_parameters():
        rows = second[name].flatten(1) if parameter.ndim > 1 else second[name][:, None]
        assert rows.any(-1).all(), f"a row of {name} has no gradient"


def test_weights_of_attention_are_dropped_in_training(part: str) -> None:
    layer, x, turn = governed(part).train(), inputs(1), rotation(0, 37)
    whole = layer(x, turn)[0]
    layer.dropout = 0.4
    torch.manual_seed(0)
    drawn = torch.cat([layer(x, turn)[0] for _ in range(300)])
    assert (drawn - whole).abs().amax((1, 2)).gt(0.01).all()
    assert distance(drawn.mean(0), whole[0].double()) < 0.15, "what is left makes up for what is dropped"
    assert torch.equal(layer.eval()(x, turn)[0], whole)


def test_what_is_off_has_no_parameters() -> None:
    names = {part: {name for name, _ in governed(part).named_parameters()} for part in PARTS_OF}
    assert not any(name.startswith("forgetting") for name in names["policy"])
    assert not any(name.startswith("policy") for name in names["forgetting"])
    assert names["both"] == names["policy"] | names["forgetting"]
    sizes = {"policy_rank": 0, "forgetting": False, "features": 24, "dropout": 0.0, "norm_eps": EPS}
    off = GovernedAttention(WIDTH, HEADS, HEADS, **sizes)
    assert off.state_dict().keys() == Attention(WIDTH, HEADS, HEADS, bias=False, dropout=0.0).state_dict().keys()
    init_transformer(off, 1, torch.Generator().manual_seed(0))
    x, turn = inputs(), rotation(0, 37)
    y, square = off(x, turn)
    assert torch.equal(y, plain(off)(x, turn)) and square == 0
    assert all(p.ndim == 1 for name, p in governed().named_parameters() if "scale" in name), "scales never decay"


def test_the_mean_square_is_that_of_the_policys_features() -> None:
    layer, x = governed("both"), inputs()
    square = layer(x, rotation(0, 37))[1]
    features = layer.reader(layer.features(x))[..., : 2 * HEADS * 6]
    torch.testing.assert_close(square, features.square().mean())
    square.backward()
    assert layer.reader.weight.grad is not None and layer.reader.weight.grad[: 2 * HEADS * 6].any(-1).all()
    assert governed("forgetting")(x, rotation(0, 37))[1] == 0


def test_a_long_decay_is_kept_to_the_last_bit() -> None:
    decay = torch.rand(1, 4000, 2, generator=torch.Generator().manual_seed(0)).mul(8).cumsum(1).requires_grad_()
    parts = split(decay)
    assert parts.shape[-1] == PARTS and torch.equal(parts.bfloat16().float().sum(-1), decay)
    parts[..., 0].sum().backward()
    assert torch.equal(decay.grad, torch.ones_like(decay))


def test_gates_start_almost_open() -> None:
    forgetting = Forgetting(2, 1.0)
    forgetting.init_own(torch.Generator())
    decay = forgetting(torch.zeros(1, 38, 2), None, 0)
    torch.testing.assert_close(decay[0, -1].exp(), torch.full((2,), 2.0), rtol=0.01, atol=0)


def fresh_cache(layer: GovernedAttention, batch: int, capacity: int, padding: Tensor | None = None) -> KVCache:
    kind = {"dtype": torch.float32, "device": torch.device("cpu")}
    sizes = (1, batch, layer.kv_heads, capacity, layer.head_size)
    return KVCache(*sizes, key_size=layer.key_size, padding=padding, **kind)


@torch.no_grad()
def decoded(layer: GovernedAttention, x: Tensor, chunks: tuple[int, ...], cache: KVCache) -> Tensor:
    """The layer's outputs for x, which follows what the cache holds."""
    found = []
    for piece in x.split(chunks, dim=1):
        turn = rotation(cache.length, piece.shape[1])
        found.append(layer(piece, turn, cache.extend(piece.shape[1])[0])[0])
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("kv_heads", [HEADS, 2])
@pytest.mark.parametrize("chunks", [(37,), (1,) * 37, (7, 1, 20, 1, 8), (1, 36)], ids=len)
def test_cached_equals_the_whole(part: str, chunks: tuple[int, ...], kv_heads: int) -> None:
    layer, x = governed(part, kv_heads), inputs()
    found = decoded(layer, x, chunks, fresh_cache(layer, 2, 37))
    torch.testing.assert_close(found, layer(x, rotation(0, 37))[0].detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunks", [(37,), (1,) * 37, (15, 1, 1, 20)], ids=len)
def test_left_padding_does_not_matter(part: str, chunks: tuple[int, ...]) -> None:
    layer, x, padding = governed(part), inputs(3), torch.tensor([0, 6, 13])
    cache = fresh_cache(layer, 3, 37, padding)
    found = decoded(layer, x, chunks, cache)
    for row, pad in enumerate(padding.tolist()):
        alone = layer(x[row : row + 1, pad:], rotation(0, 37 - pad))[0][0].detach()
        torch.testing.assert_close(found[row, pad:], alone, atol=1e-5, rtol=0)


def test_padding_leaves_no_trace_in_the_keys() -> None:
    """So that the keys of a prompt's beginning can go on in a batch that is padded otherwise."""
    layer, x = governed("forgetting"), inputs(1)
    kept = []
    for pad in (0, 5):
        cache = fresh_cache(layer, 1, 25, torch.tensor([pad]))
        decoded(layer, torch.cat([x[:, 30 : 30 + pad], x[:, :20]], 1), (20 + pad,), cache)
        kept.append(cache.keys[..., pad : pad + 20, layer.head_size :])
    sums = [keys[..., :PARTS].sum(-1) for keys in kept]
    torch.testing.assert_close(*sums, rtol=1e-6, atol=1e-5)


def test_rows_that_leave_and_rows_that_branch_go_on() -> None:
    layer, x, padding = governed(), inputs(3), torch.tensor([4, 0, 2])
    expected = decoded(layer, x, (37,), fresh_cache(layer, 3, 37, padding))
    cache = fresh_cache(layer, 3, 37, padding)
    decoded(layer, x[:, :20], (20,), cache)
    cache.keep(torch.tensor([2, 0]))
    left = decoded(layer, x[[2, 0], 20:30], (9, 1), cache)
    torch.testing.assert_close(left, expected[[2, 0], 20:30], atol=1e-5, rtol=0)
    cache.branch(torch.tensor([1, 0, 1]), 7, shared=False)
    assert cache.keys.shape[-1] == layer.key_size and cache.values.shape[-1] == layer.head_size
    branched = decoded(layer, x[[0, 2, 0], 30:], (1, 6), cache)
    torch.testing.assert_close(branched, expected[[0, 2, 0], 30:], atol=1e-5, rtol=0)


def test_cached_in_bf16_is_near(part: str) -> None:
    layer, x, turn = governed(part), inputs(), rotation(0, 37)
    with torch.autocast("cpu", torch.bfloat16):
        found = decoded(layer, x, (20, 1, 16), fresh_cache(layer, 2, 37))
    assert distance(found, reference(layer, x, turn).detach()) < 0.02


def test_what_the_trace_reads_is_what_attention_weighs(part: str) -> None:
    layer, x, turn = governed(part), inputs(), rotation(0, 37)
    q, k, scale = layer.scores_inputs(x, turn)
    hidden = torch.ones(37, 37, dtype=torch.bool).triu(1)
    weights = (scale * q @ k.mT).masked_fill(hidden, -torch.inf).softmax(-1)
    values = layer.qkv(x).view(2, 37, -1, layer.head_size).transpose(1, 2)[:, 2 * HEADS :]
    y = layer.output((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(y, layer(x, turn)[0], atol=1e-5, rtol=0)
