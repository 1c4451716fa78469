"""The router's information: against entropies counted from joint tables in float64, at its ends, and under training."""

import math
from collections import Counter

import pytest
import torch
from moe_cases import make, tokens
from torch import Tensor

from eco.models.layers.moe import RibConfig
from eco.models.layers.moe.information import TEMPERATURES, information, rib_loss, temperature

EXPERTS = 4


def log_p(weights: list[list[float]]) -> Tensor:
    p = torch.tensor(weights, dtype=torch.float64)
    return (p / p.sum(-1, keepdim=True)).log()


def entropy(shares: list[float]) -> float:
    return -sum(share * math.log(share) for share in shares if share > 0)


def test_against_the_mutual_information_of_counted_pairs() -> None:
    """Tokens drawn evenly, experts in whole numbers out of 12: I = H(X) + H(E) - H(X, E) over the pairs' counts."""
    weights = [[6, 3, 2, 1], [1, 1, 9, 1], [3, 3, 3, 3], [10, 0, 1, 1], [0, 12, 0, 0]]
    pairs = Counter({(x, e): n for x, row in enumerate(weights) for e, n in enumerate(row)})
    total = pairs.total()
    marginals = [[sum(n for pair, n in pairs.items() if pair[side] == v) / total for v in range(5)] for side in (0, 1)]
    joint = entropy([n / total for n in pairs.values()])
    found = information(log_p(weights).clamp_min(-700.0))
    assert found.retained.item() == pytest.approx(entropy(marginals[0]) + entropy(marginals[1]) - joint, abs=1e-12)
    assert found.load_entropy.item() == pytest.approx(entropy(marginals[1]), abs=1e-12)
    assert found.token_entropy.item() == pytest.approx(joint - entropy(marginals[0]), abs=1e-12)


def test_a_router_that_ignores_its_token_retains_nothing() -> None:
    found = information(log_p([[1, 2, 3, 4]]).expand(9, EXPERTS))
    assert found.retained.item() == pytest.approx(0, abs=1e-15) and found.load_entropy > 1


def test_a_sure_and_even_router_retains_log_e() -> None:
    found = information(log_p((torch.eye(EXPERTS) + 1e-300).tolist() * 3).clamp_min(-700.0))
    assert found.retained.item() == pytest.approx(math.log(EXPERTS), abs=1e-12)


def test_the_loss_is_the_weighted_sum_of_its_three_terms() -> None:
    found = information(log_p([[6, 3, 2, 1], [1, 1, 9, 1]]))
    most = math.log(EXPERTS)
    terms = {
        "collapse": (most - found.load_entropy.item()) / most,
        "info": found.token_entropy.item() / most,
        "confidence": -found.retained.item() / most,
    }
    for name, value in terms.items():
        only = RibConfig(**{**dict.fromkeys(terms, 0.0), name: 0.5})
        assert rib_loss(found, only).item() == pytest.approx(0.5 * value, abs=1e-14)
    expected = 0.08 * terms["collapse"] + 0.03 * terms["info"] + 0.03 * terms["confidence"]
    assert rib_loss(found, RibConfig()).item() == pytest.approx(expected, abs=1e-14)


def test_an_expert_out_of_reach_leaves_the_gradient_finite() -> None:
    layer = make(routed=EXPERTS)
    with torch.no_grad():
        layer.router.score.weight[1].fill_(-1e4)
    layer(tokens().abs())[1].losses["rib"].backward()
    assert layer.router.score.weight.grad.isfinite().all()


def test_metrics_are_those_of_the_affinities_in_proportion() -> None:
    layer, x = make(routed=EXPERTS, jitter=0.0), tokens(4, 16)
    p = torch.sigmoid(layer.router(x).logits.detach().double()).flatten(0, 1)
    p = p / p.sum(-1, keepdim=True)
    mean, most = p.mean(0), math.log(EXPERTS)
    token_entropy = sum(entropy(row) for row in p.tolist()) / len(p)
    routing = layer(x)[1]
    metrics = {name: value.item() for name, value in routing.metrics.items()}
    assert metrics["moe_entropy"] == pytest.approx(token_entropy, rel=1e-5)
    assert metrics["rib_router_compression"] == pytest.approx(token_entropy / most, rel=1e-5)
    assert metrics["rib_retained_info"] == pytest.approx((entropy(mean.tolist()) - token_entropy) / most, rel=1e-4)
    assert metrics["rib_router_collapse"] == pytest.approx((mean.max() - mean.min()).item(), rel=1e-4)
    assert metrics["rib_aux_loss"] == routing.losses["rib"].item()
    assert make(rib=None)(x)[1].metrics["rib_aux_loss"] == 0


def test_training_on_the_loss_alone_raises_the_information() -> None:
    layer, x = make(routed=EXPERTS), 0.3 * tokens(4, 16)
    optimizer = torch.optim.Adam(layer.router.parameters(), lr=0.05)
    seen, load = [], []
    for _ in range(200):
        torch.manual_seed(0)
        optimizer.zero_grad()
        choice = layer.router(x)
        found = information(choice.log_p)
        rib_loss(found, RibConfig()).backward()
        assert layer.evidence() > 0
        optimizer.step()
        seen.append(found.retained.item() / math.log(EXPERTS))
        load.append(found.load_entropy.item() / math.log(EXPERTS))
    assert seen[0] < 0.05 and seen[-1] > 0.5 and load[-1] > 0.95


def test_the_temperature_follows_load_and_information() -> None:
    even, skewed = torch.full((4,), 0.25), torch.tensor([0.4, 0.2, 0.2, 0.2])
    config, half = RibConfig(), torch.tensor(0.5)
    assert temperature(even, torch.tensor(0.1), config).item() == pytest.approx(1 - 0.055)
    assert temperature(skewed, half, config).item() == pytest.approx(1 + 0.2 - 0.275)
    assert temperature(even, torch.tensor(1.0), config).item() == pytest.approx(TEMPERATURES[0])
    assert temperature(torch.tensor([1.0, 0, 0, 0]), half, config).item() == pytest.approx(TEMPERATURES[1])
    assert temperature(even, half, RibConfig(temperature_gain=0.0)).item() == 1.0


def test_balance_sets_the_temperature_that_the_next_step_routes_with() -> None:
    layer, x = make(routed=EXPERTS, jitter=0.0), tokens()
    cold = layer.router(x).logits
    layer.balance(torch.ones(EXPERTS), torch.tensor(0.2))
    assert layer.router.temperature.item() == pytest.approx(1 - 0.11)
    torch.testing.assert_close(layer.router(x).logits, cold / (1 - 0.11))
    routing = layer(x)[1]
    layer.balance(routing.load)
    expected = temperature(layer.router.usage, routing.metrics["rib_retained_info"], RibConfig())
    assert layer.router.temperature.item() == expected.item()
    bare = make(routed=EXPERTS, rib=None)
    bare.balance(torch.ones(EXPERTS))
    assert bare.router.temperature.item() == 1.0
