"""Differential attention: what both maps have in common cancels, and lambda is learned within its bounds."""

import pytest
import torch
from torch import Tensor

from eco.models.layers.differential import Differential, HeadNorm, LambdaRange
from eco.models.layers.latent_attention import LatentAttention


def differential(limits: LambdaRange | None = None, seed: int = 0) -> Differential:
    made = Differential(64, limits or LambdaRange())
    made.init_own(torch.Generator().manual_seed(seed))
    return made


def set_weight(d: Differential, free: float) -> None:
    """Gives lambda, before it is clamped, this value."""
    with torch.no_grad():
        for vector in d.parameters():
            vector.fill_(0.0)
        d.query_1[0], d.key_1[0] = 1.0, torch.tensor(free - d.limits.init + 1.0).log()
    with torch.no_grad():
        exact = (d.query_1 @ d.key_1).exp() - (d.query_2 @ d.key_2).exp() + d.limits.init
    torch.testing.assert_close(exact.item(), free, atol=1e-6, rtol=0)


def test_noise_that_both_maps_share_cancels() -> None:
    """Scores with a distractor that outweighs the signal in both maps: at lambda 1 only the signal is left."""
    d = differential(LambdaRange(1.0, 0.05, 1.2))
    set_weight(d, 1.0)
    generator = torch.Generator().manual_seed(3)
    noise = torch.rand(1, 1, 6, 6, generator=generator)
    signal = torch.zeros(6, 6).fill_diagonal_(0.2)
    values = torch.randn(1, 1, 6, 4, generator=generator)
    mixed = d((noise + signal) @ values, noise @ values)
    torch.testing.assert_close(mixed, 0.2 * values, atol=1e-6, rtol=0)
    assert ((noise + signal) @ values - 0.2 * values).norm() > (0.2 * values).norm(), "one map is mostly noise"


@torch.no_grad()
def test_a_layer_forgets_a_distractor_that_both_maps_see() -> None:
    """With equal queries and keys in both maps and lambda 1, nothing is left of a layer's attention."""
    m = layer(LambdaRange(1.0, 0.05, 1.2))
    x, rotation = torch.randn(1, 9, 16, generator=torch.Generator().manual_seed(1)), still(9)
    assert m.differential is not None
    set_weight(m.differential, 1.0)
    heads = m.heads
    for size, weight, begin in ((8, m.input.weight, 0), (4, m.input.weight, 2 * heads * 8), (8, m.up.weight, 0)):
        weight[begin + heads * size : begin + 2 * heads * size] = weight[begin : begin + heads * size]
    m.output_norm = torch.nn.Identity()  # which would make anything of the rounding
    assert m(x, rotation).abs().max() < 1e-5
    set_weight(m.differential, 0.5)
    assert m(x, rotation).abs().max() > 0.1


def test_lambda_starts_near_its_initial_value_and_learns() -> None:
    found = []
    for seed in range(40):
        d = differential(seed=seed)
        weight = d.weight()
        weight.backward()
        assert 0.05 <= weight.item() <= 1.20 and d.evidence() > 0
        assert all(vector.grad is not None and vector.grad.abs().sum() > 0 for vector in d.parameters())
        found.append(weight.item())
    mean, std = torch.tensor(found).mean(), torch.tensor(found).std()
    assert 0.30 < mean < 0.40 and 0.05 < std < 0.2


@pytest.mark.parametrize("free, clamped, inward", [(-0.2, 0.05, -1.0), (1.7, 1.20, 1.0)])
def test_lambda_stays_in_its_bounds_and_finds_back(free: float, clamped: float, inward: float) -> None:
    """`inward` is a gradient whose descent leads back between the bounds."""
    d = differential()
    set_weight(d, free)
    assert d.weight().item() == pytest.approx(clamped)
    (d.weight() * inward).backward()
    assert d.evidence() > 0
    d.zero_grad()
    assert d.evidence() == 0
    (d.weight() * -inward).backward()
    assert d.evidence() == 0, "further out it must not drift"
    optimizer = torch.optim.SGD(d.parameters(), 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (d.weight() - 0.6).square().backward()
        optimizer.step()
    assert d.weight().item() == pytest.approx(0.6, abs=0.01)


def test_the_norm_of_heads() -> None:
    norm = HeadNorm(4, 0.35, 1e-6)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 0.5, 1.0]))
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(2)) * torch.tensor(
        [1.0, 30.0, 0.1]
    ).repeat_interleave(4)
    heads = x.double().view(2, 5, 3, 4)
    expected = 0.65 * norm.weight.double() * heads / (heads.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x).double(), expected.flatten(2), atol=1e-5, rtol=0)


def test_without_it_the_layer_is_smaller() -> None:
    plain, twice = layer(None), layer(LambdaRange())
    assert plain.differential is None and type(plain.output_norm).__name__ == "RMSNorm"
    more = sum(p.numel() for p in twice.parameters()) - sum(p.numel() for p in plain.parameters())
    queries, keys, vectors, gains = 2 * (8 + 4) * 16, 2 * 8 * 6, 4 * 8, 2 * 2
    assert more == queries + keys + vectors + gains + 8 - 2 * 8, "and one norm of a head instead of all"
    plain(torch.ones(1, 3, 16), still(3))
    assert plain.evidence() == 0 and "diff_attn_lambda_mean" not in plain.metrics


def test_the_layer_tells_lambda_and_its_gradient() -> None:
    m = layer(LambdaRange())
    assert m.differential is not None and m.evidence() == 0
    x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(1))
    m(x, still(9)).square().sum().backward()
    assert m.metrics["diff_attn_lambda_mean"] == m.differential.weight()
    assert not m.metrics["diff_attn_lambda_mean"].requires_grad
    gradients = [vector.grad for vector in m.differential.parameters()]
    assert m.evidence() == pytest.approx(sum(g.square().sum().item() for g in gradients) ** 0.5) and m.evidence() > 0


def layer(limits: LambdaRange | None) -> LatentAttention:
    sizes = {"latent": 6, "rope": 4, "nope": 8, "value": 8}
    m = LatentAttention(16, 2, **sizes, differential=limits, quantised=False, eps=1e-6)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in m.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn if parameter.ndim > 1 else torch.ones_like(drawn))
    if m.differential is not None:
        m.differential.init_own(generator)
    return m


def still(count: int) -> tuple[Tensor, Tensor]:
    return torch.ones(count, 2), torch.zeros(count, 2)
