"""The mixture of experts: against itself token by token, its balance, its gates, its gradients, what it keeps."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_cases import HIDDEN, WIDTH, by_token, make, tokens
from torch import Tensor

from eco.models.layers.moe import MoE, Routing
from eco.models.layers.moe.dispatch import plan
from eco.models.layers.moe.router import expert_load

DISPATCHES = ["grouped", "packed", "legacy"]
TIGHT = {torch.float64: {"rtol": 1e-11, "atol": 1e-12}, torch.float32: {"rtol": 1e-4, "atol": 2e-5}}
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def gradients(layer: MoE, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output and the gradients of x and all parameters, for a fixed gradient of the output plus the losses."""
    layer.zero_grad()
    leaf = x.clone().requires_grad_()
    y, routing = layer(leaf)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(y.dtype)
    ((y * direction).sum() + sum(routing.losses.values())).backward()
    found = {"x": leaf.grad, **{name: p.grad for name, p in layer.named_parameters()}}
    assert all(g is not None for g in found.values()), [name for name, g in found.items() if g is None]
    return y.detach(), {name: g for name, g in found.items() if g is not None}


def like(layer: MoE, dispatch: str) -> MoE:
    other = copy.deepcopy(layer)
    other.dispatch = dispatch  # type: ignore[assignment]
    return other


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("shared", [0, 1, 2])
def test_output_is_that_of_each_token_alone(dispatch: str, shared: int) -> None:
    layer = make(shared=shared, dispatch=dispatch, jitter=0.0, dtype=torch.float64)
    layer.router.bias.copy_(torch.tensor([0.2, -0.1, 0.0, 0.1]))
    layer.router.temperature.fill_(0.9)
    x = tokens(dtype=torch.float64)
    torch.testing.assert_close(layer(x)[0], by_token(layer, x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("quantised", [False, True], ids=["plain", "ternary"])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
def test_dispatches_agree_in_values_and_gradients(dtype: torch.dtype, quantised: bool) -> None:
    layer = make(jitter=0.0, quantised=quantised, routed=6, top_k=3, dtype=dtype)
    x = tokens(dtype=dtype)
    y, found = gradients(layer, x)
    for dispatch in ("packed", "legacy"):
        other, others = gradients(like(layer, dispatch), x)
        torch.testing.assert_close(other, y, **TIGHT[dtype])
        for name in found:
            torch.testing.assert_close(others[name], found[name], **TIGHT[dtype], msg=lambda m, n=name: f"{n}: {m}")


@settings(max_examples=25, deadline=None)
@given(
    routed=st.integers(2, 7),
    time=st.integers(1, 9),
    bias=st.lists(st.floats(-2, 2), min_size=7, max_size=7),
    data=st.data(),
)
def test_dispatches_agree_for_any_load(routed: int, time: int, bias: list[float], data: st.DataObject) -> None:
    """Large biases leave experts without tokens, and give one expert all of them."""
    layer = make(jitter=0.0, routed=routed, top_k=data.draw(st.integers(1, routed)), dtype=torch.float64)
    layer.router.bias.copy_(torch.tensor(bias[:routed]))
    x = tokens(1, time, dtype=torch.float64)
    y, found = gradients(layer, x)
    for dispatch in ("packed", "legacy"):
        other, others = gradients(like(layer, dispatch), x)
        torch.testing.assert_close(other, y, **TIGHT[torch.float64])
        for name in found:
            torch.testing.assert_close(others[name], found[name], **TIGHT[torch.float64])


def test_one_expert_takes_all_and_the_others_stay_as_they_are() -> None:
    layer = make(jitter=0.0, top_k=1, dtype=torch.float64)
    layer.router.bias.copy_(torch.tensor([0.0, 0.0, 9.0, 0.0]))
    x = tokens(dtype=torch.float64)
    _, found = gradients(layer, x)
    assert layer(x)[1].load.tolist() == [0, 0, 14, 0]
    for name in ("experts.gate_up.weight", "experts.down.weight"):
        used = [bool(part.any()) for part in found[name].chunk(4)]
        assert used == [False, False, True, False]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), count=st.integers(1, 6), number=st.integers(1, 12))
def test_a_plan_sorts_every_choice_once(data: st.DataObject, count: int, number: int) -> None:
    k = data.draw(st.integers(1, count))
    rows = st.lists(st.integers(0, count - 1), min_size=k, max_size=k, unique=True).map(sorted)
    experts = torch.tensor(data.draw(st.lists(rows, min_size=number, max_size=number)))
    way = plan(experts, count)
    assert way.offsets.dtype == torch.int32 and way.offsets[0] == 0 and way.offsets[-1] == number * k
    assert sorted(way.row.flatten().tolist()) == list(range(number * k))
    for n in range(number):
        for choice, row in zip(experts[n].tolist(), way.row[n].tolist(), strict=True):
            assert way.token[row] == n and way.offsets[choice] <= row < way.offsets[choice + 1]


def test_many_rows_begin_at_multiples_and_what_fills_up_counts_for_nothing() -> None:
    experts = torch.stack([torch.zeros(400, dtype=torch.int64), 1 + (torch.arange(400) % 7 == 0)], dim=1)
    way = plan(experts, 3)
    lengths = way.offsets.diff()
    assert (lengths % 32 == 0).all() and len(way.token) == lengths.sum() > 800
    assert len(way.row.unique()) == 800
    assert torch.equal(way.token[way.row], torch.arange(400)[:, None].expand(-1, 2))
    for n, choices in enumerate(experts.tolist()):
        for choice, row in zip(choices, way.row[n].tolist(), strict=True):
            assert way.offsets[choice] <= row < way.offsets[choice + 1]


def test_rows_that_fill_up_change_neither_result_nor_gradient() -> None:
    layer = make(jitter=0.0, dtype=torch.float64)
    x = torch.randn(2, 300, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert len(plan(layer.router(x).experts.flatten(0, 1), 4).token) > 1200
    y, found = gradients(layer, x)
    expected, wanted = gradients(like(layer, "legacy"), x)
    torch.testing.assert_close(y, expected, **TIGHT[torch.float64])
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], **TIGHT[torch.float64])


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_the_bias_is_in_the_choice_but_not_in_the_gates(top_k: int) -> None:
    layer = make(jitter=0.0, routed=5, top_k=top_k)
    x = tokens()
    before = layer.router(x)
    y = layer(x)[0]
    layer.router.bias.add_(0.7)  # of all experts: the order of the biased affinities stays
    assert torch.equal(layer.router(x).experts, before.experts) and torch.equal(layer(x)[0], y)
    layer.router.bias.copy_(1e-6 * torch.tensor([3.0, -2.0, 1.0, -4.0, 2.0]))
    assert torch.equal(layer.router(x).experts, before.experts) and torch.equal(layer(x)[0], y)
    layer.router.bias.copy_(torch.tensor([5.0, 0.0, 0.0, 0.0, 0.0]))
    assert (layer.router(x).experts[..., 0] == 0).all()
    assert torch.equal(layer(x)[0], y) == (top_k == 5)  # of five experts it changes the order, and no more


def test_the_gates_of_a_token_sum_to_one() -> None:
    choice = make(top_k=3).router(tokens())
    torch.testing.assert_close(choice.gates.sum(-1), torch.ones(2, 7))
    affinity = torch.sigmoid(choice.logits).gather(-1, choice.experts)
    torch.testing.assert_close(choice.gates, affinity / affinity.sum(-1, keepdim=True))


def test_balance_evens_out_a_skewed_load() -> None:
    layer = make(routed=8, rib=None)
    x = tokens(8, 32) + 1.5 * layer.router.score.weight[2].detach() * WIDTH**0.5  # everybody likes expert 2
    seen = []
    for _ in range(600):
        load = expert_load(layer.router(x).experts.flatten(), 8).float()
        seen.append((load.max() - load.min()).item() / 512)
        layer.balance(load)
    assert seen[0] > 0.3 and max(seen[-50:]) < 0.05
    assert layer.router.bias[2] == layer.router.bias.min() < -0.05
    torch.testing.assert_close(layer.router.usage, torch.full((8,), 1 / 8), atol=0.02, rtol=0)


def test_balance_moves_by_the_sign_alone() -> None:
    layer = make(rib=None, balance_rate=0.25)
    layer.balance(torch.tensor([10.0, 1.0, 5.0, 4.0]))
    assert layer.router.bias.tolist() == [-0.25, 0.25, 0.0, 0.25]
    torch.testing.assert_close(layer.router.usage, torch.tensor([0.2625, 0.24, 0.25, 0.2475]))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_the_router_gets_its_gradient_through_the_rounding(precision: str) -> None:
    layer = make(router_precision=precision, jitter=0.0)
    assert layer.evidence() == 0.0
    y, routing = layer(tokens())
    (y.square().mean() + sum(routing.losses.values())).backward()
    assert layer.evidence() == pytest.approx(layer.router.score.weight.grad.norm().item()) and layer.evidence() > 1e-4
    assert [routing.metrics[f"moe_gate_precision_{p}"].item() == 1 for p in ("bf16", "int8")] == [
        p == precision for p in ("bf16", "int8")
    ]


def test_int8_weights_lie_on_255_steps_of_their_row() -> None:
    layer = make(router_precision="int8", jitter=0.0)
    logits = layer.router(torch.eye(WIDTH)).logits.T
    steps = logits / logits.abs().amax(1, keepdim=True) * 127
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    weight = layer.router.score.weight
    assert 0 < (logits - weight).abs().max() <= weight.abs().max() / 254 * 1.001


@pytest.mark.parametrize("quantised", [False, True], ids=["plain", "ternary"])
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_every_parameter_learns(quantised: bool, precision: str) -> None:
    _, found = gradients(make(quantised=quantised, router_precision=precision), tokens(4, 16))
    assert len(found) == 8
    for name, gradient in found.items():
        rows = gradient.flatten(0, -2) if gradient.dim() > 1 else gradient[None]
        assert rows.isfinite().all() and rows.abs().sum(-1).gt(0).float().mean() > 0.9, name


def test_without_jitter_in_evaluation_and_drawn_from_the_default_generator_in_training() -> None:
    layer, x = make(jitter=0.5), tokens()
    torch.manual_seed(0)
    first = layer(x)[0]
    assert not torch.equal(layer(x)[0], first)
    torch.manual_seed(0)
    assert torch.equal(layer(x)[0], first)
    layer.eval()
    state = torch.get_rng_state()
    y, routing = layer(x)
    assert torch.equal(layer(x)[0], y) and torch.equal(torch.get_rng_state(), state)
    assert routing.losses == {} == routing.metrics and routing.load.sum() == 2 * 14
    torch.testing.assert_close(y, by_token(layer, x), rtol=1e-5, atol=1e-5)


def test_the_state_comes_back() -> None:
    layer, x = make(), tokens()
    for _ in range(5):
        layer.balance(layer(x)[1].load)
    state = layer.state_dict()
    assert {"router.bias", "router.usage", "router.temperature"} <= set(state)
    other = make(seed=9)
    assert not torch.equal(other.eval()(x)[0], layer.eval()(x)[0])
    other.load_state_dict(state)
    assert torch.equal(other(x)[0], layer(x)[0])


def test_metrics_say_what_was_routed() -> None:
    layer, x = make(routed=5, top_k=2), tokens()
    layer.router.bias.copy_(torch.tensor([0.3, 0.0, 0.1, 0.0, -0.2]))
    routing = layer(x)[1]
    share = routing.load / 28
    metrics = {name: value.item() for name, value in routing.metrics.items()}
    assert layer.metrics is routing.metrics and not any(v.requires_grad for v in routing.metrics.values())
    assert metrics["moe_usage_max"] == pytest.approx(share.max().item())
    assert metrics["moe_usage_min"] == pytest.approx(share.min().item())
    assert metrics["moe_usage_imbalance"] == pytest.approx((share.max() - share.min()).item())
    assert metrics["moe_routed_fraction"] == 1.0 and metrics["moe_router_temp"] == 1.0
    assert metrics["moe_router_bias_std"] == pytest.approx(layer.router.bias.double().numpy().std(), rel=1e-5)
    assert metrics["moe_z_loss"] == routing.losses["moe_z"].item()


def test_losses_against_their_formulas() -> None:
    layer, x = make(jitter=0.0, routed=5), tokens(3, 6)
    choice, losses = layer.router(x), layer(x)[1].losses
    p = torch.sigmoid(choice.logits.double())
    p = p / p.sum(-1, keepdim=True)
    expected = 0.0
    for row in range(3):
        for e in range(5):
            frequency = sum(e in picks for picks in choice.experts[row].tolist()) * 5 / (2 * 6)
            expected += frequency * p[row, :, e].mean().item() / 3
    assert losses["moe_balance"].item() == pytest.approx(expected, rel=1e-5)
    z = [math.log(sum(math.exp(v) for v in token)) ** 2 for token in choice.logits.flatten(0, 1).tolist()]
    assert losses["moe_z"].item() == pytest.approx(sum(z) / len(z), rel=1e-5)


def test_under_autocast_the_router_stays_in_fp32() -> None:
    layer, x = make(jitter=0.0), tokens().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y, routing = layer(x)
        choice = layer.router(x)
    assert y.dtype == torch.bfloat16 and choice.logits.dtype == choice.gates.dtype == torch.float32
    assert all(loss.dtype == torch.float32 for loss in routing.losses.values())
    torch.testing.assert_close(y.float(), by_token(layer, x.float()), rtol=0.05, atol=0.05)


def test_gradients_are_the_same_for_any_number_of_threads() -> None:
    layer, x = make(jitter=0.0), tokens(4, 64)
    first = gradients(layer, x)[1]["x"]
    torch.set_num_threads(3)
    try:
        torch.testing.assert_close(gradients(layer, x)[1]["x"], first, rtol=1e-6, atol=1e-6)
    finally:
        torch.set_num_threads(1)


def test_routing_is_what_the_trainer_expects() -> None:
    y, routing = make()(tokens())
    assert isinstance(routing, Routing) and y.shape == (2, 7, WIDTH) and HIDDEN != WIDTH
    assert set(routing.losses) == {"moe_balance", "moe_z", "rib"}
    assert set(make(rib=None)(tokens())[1].losses) == {"moe_balance", "moe_z"}
    assert routing.load.dtype == torch.float32 and routing.load.sum() == 28
