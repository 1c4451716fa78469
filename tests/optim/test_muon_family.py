"""Muon, NorMuon, AdaMuon and TEON against their formulas in float64 with the singular value decomposition."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from every_optimizer import language_model, train
from torch import Tensor, nn

from eco.machine.dtypes import DtypeChoice
from eco.optim import adamuon, muon, normuon, teon
from eco.optim.parts import orthogonal

LR, DECAY, BETA = 0.02, 0.1, 0.9
ROWS = (24, 8, 8)
FAMILY = {"muon": muon, "normuon": normuon, "adamuon": adamuon, "teon": teon}


class Mixing(nn.Module):
    attention_inputs = ("qkv",)

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, sum(ROWS), bias=False)
        self.qkv.row_blocks = ROWS  # type: ignore[assignment]
        self.up = nn.Linear(16, 40, bias=False)


class Stack(nn.Module):
    """Layers whose qkv may be taken two by two; a third one would stay alone."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Mixing() for _ in range(layers))
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


def numbers(shape: torch.Size, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def settings(name: str, **more: float) -> dict[str, Any]:
    return {"lr": LR, "weight_decay": DECAY, "momentum": BETA, **more}


def moved(name: str, count: int, gradient: Callable[[Tensor, int], Tensor], **more: float) -> list[Tensor]:
    """The parameters of a Stack after `count` steps of an optimizer."""
    model, module = Stack(), FAMILY[name]
    optimizer = module.build(module.Config(**settings(name, **more)), model)
    for step in range(count):
        for number, parameter in enumerate(model.parameters()):
            parameter.grad = gradient(parameter, 100 * step + number)
        optimizer.step()
    return [p.detach() for p in model.parameters()]


def draw(parameter: Tensor, seed: int) -> Tensor:
    return numbers(parameter.shape, seed) * 1e-3


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orthogonal factors by the decomposition, in fp32: what is left to compare is all the rest."""
    for module in (orthogonal, teon):
        monkeypatch.setattr(module, "orthogonalise", lambda stack: polar(stack.double()).float())
    monkeypatch.setattr(orthogonal.machine, "training_dtype", lambda device: DtypeChoice("fp32", "tested"))


def polar(matrices: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    return u @ vh


def reference(name: str, count: int, coupling: float = 1.0, beta2: float = 0.95) -> list[Tensor]:
    """The same in float64, one matrix after the other, as the papers have it."""
    weights = [p.detach().double() for p in Stack().parameters()]
    momenta = [torch.zeros_like(w) for w in weights]
    squares = [torch.zeros_like(w) for w in weights]
    for step in range(count):
        ahead = []
        for number, weight in enumerate(weights):
            gradient = draw(weight, 100 * step + number).double()
            momenta[number] = BETA * momenta[number] + (1 - BETA) * gradient
            ahead.append(BETA * momenta[number] + (1 - BETA) * gradient)
        for number, (first, last) in matrices_of(weights):
            direction, weight = ahead[number][first:last], weights[number][first:last]
            m, n = weight.shape
            if name == "adamuon":
                direction = direction.sign()
            update = polar(direction) * 0.2 * max(m, n) ** 0.5
            if name == "teon" and number in (0, 2):
                pair = polar(torch.cat([ahead[0][first:last], ahead[2][first:last]], dim=1))
                half = pair[:, :n] if number == 0 else pair[:, n:]
                update = (1 - coupling) * update + coupling * half * 0.2 * max(m, n) ** 0.5
            if name in ("normuon", "adamuon"):
                square, o = squares[number][first:last], polar(direction)
                seen = o.square() if name == "adamuon" else o.square().mean(1, keepdim=True).expand(m, n)
                square.copy_(beta2 * square + (1 - beta2) * seen)
                unbiased = square / (1 - beta2 ** (step + 1))
                even = o / (unbiased.sqrt() + 1e-8)
                update = 0.2 * (m * n) ** 0.5 * even / even.norm()
            weight.copy_(weight - LR * DECAY * weight - LR * update)
    return weights


def matrices_of(weights: list[Tensor]) -> Iterator[tuple[int, tuple[int, int]]]:
    """(number of the parameter, rows of one of its matrices)."""
    for number, weight in enumerate(weights):
        if number % 2:
            yield number, (0, len(weight))
        else:
            yield from [(number, (0, 24)), (number, (24, 32)), (number, (32, 40))]


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.usefixtures("exact")
def test_three_steps_are_those_of_the_formula(name: str) -> None:
    for one, two in zip(moved(name, 3, draw), reference(name, 3), strict=True):
        torch.testing.assert_close(one.double(), two, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("name", "option"), [("normuon", "row_beta2"), ("adamuon", "element_beta2")])
def test_the_second_moment_remembers_as_long_as_it_is_told(name: str, option: str) -> None:
    for one, two in zip(moved(name, 3, draw, **{option: 0.5}), reference(name, 3, beta2=0.5), strict=True):
        torch.testing.assert_close(one.double(), two, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("exact")
def test_coupling_mixes_joint_and_own_updates() -> None:
    for one, two in zip(moved("teon", 3, draw, coupling=0.3), reference("teon", 3, coupling=0.3), strict=True):
        torch.testing.assert_close(one.double(), two, rtol=1e-5, atol=1e-6)


def frozen_polar(matrix: Tensor) -> Tensor:
    """What four steps of Polar Express make of a matrix, by its singular values alone."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / (1.02 * s.pow(4).sum() ** 0.25)
    for a, b, c in [
        (7.5678, -21.5502, 15.8011),
        (3.9630, -3.0947, 0.6223),
        (3.5790, -2.6815, 0.5323),
        (2.3869, -1.6303, 0.3469),
    ]:
        s = a * s + b * s**3 + c * s**5
    return u @ s.diag() @ vh


def test_muons_first_step_is_the_polynomials_of_the_singular_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orthogonal.machine, "training_dtype", lambda device: DtypeChoice("fp32", "tested"))
    before = [p.detach().double() for p in Stack().parameters()]
    after = moved("muon", 1, draw)
    for number, (first, last) in matrices_of(before):
        weight = before[number][first:last]
        update = frozen_polar(draw(before[number], number)[first:last]) * 0.2 * max(weight.shape) ** 0.5
        expected = weight * (1 - LR * DECAY) - LR * update
        torch.testing.assert_close(after[number][first:last].double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_singular_values_of_an_update_are_near_one(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orthogonal.machine, "training_dtype", lambda device: DtypeChoice(dtype, "tested"))
    for rows, columns in [(64, 256), (256, 64), (48, 64), (128, 128)]:
        layer = nn.Linear(columns, rows, bias=False)
        layer.weight.grad = numbers(layer.weight.shape, rows)
        before = layer.weight.detach().clone()
        muon.build(muon.Config(lr=1.0, weight_decay=0.0), layer).step()
        values = torch.linalg.svdvals((before - layer.weight.detach()) / (0.2 * max(rows, columns) ** 0.5))
        assert values.max() < 1.2
        # Of a square random matrix the least singular value is near zero, and stays below one.
        assert values.min() > 0.7 or (rows == columns and values.quantile(0.02) > 0.7)


@pytest.mark.parametrize("name", FAMILY)
def test_updates_go_where_the_decomposition_points_and_have_adamws_size(name: str) -> None:
    """With the real products, in bf16 where there are any. AdaMuon's first step takes the sign of every element of an
    orthogonal factor, and of the smallest the products do not get it right."""
    before = [p.detach().double() for p in Stack().parameters()]
    for number, (one, two) in enumerate(zip(moved(name, 1, draw), reference(name, 1), strict=True)):
        kept = before[number] * (1 - LR * DECAY)
        update, expected = kept - one.double(), kept - two
        assert torch.cosine_similarity(update.flatten(), expected.flatten(), dim=0) > 0.95
        assert float(update.norm() / expected.norm()) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("name", ["normuon", "adamuon"])
def test_the_root_mean_square_of_an_update_is_exactly_a_fifth_of_the_rate(name: str) -> None:
    module = FAMILY[name]
    layer = nn.Linear(32, 48, bias=False)
    before, layer.weight.grad = layer.weight.detach().clone(), numbers(layer.weight.shape, 1)
    optimizer = module.build(module.Config(lr=LR, weight_decay=0.0), layer)
    optimizer.step()
    rms = float((layer.weight.detach() - before).square().mean().sqrt())
    assert rms == pytest.approx(0.2 * LR, rel=1e-4)
    assert optimizer.metrics() == {"muon_full_orth_updates": 1.0, "muon_update_rms": pytest.approx(rms, rel=1e-3)}


def test_normuon_evens_out_the_rows_that_muon_leaves_uneven() -> None:
    spread = {}
    for name, module in [("muon", muon), ("normuon", normuon)]:
        layer = nn.Linear(16, 64, bias=False)  # in a tall matrix the rows of the orthogonal factor differ
        before, layer.weight.grad = layer.weight.detach().clone(), numbers(layer.weight.shape, 2)
        module.build(module.Config(weight_decay=0.0), layer).step()
        lengths = (layer.weight.detach() - before).norm(dim=1)
        spread[name] = float(lengths.std() / lengths.mean())
    assert spread["normuon"] < 0.01 < 0.1 < spread["muon"]


def test_adamuon_does_not_see_how_large_a_gradient_is() -> None:
    shrunk = moved("adamuon", 1, lambda p, seed: draw(p, seed) * draw(p, seed + 7).abs())
    for one, two in zip(moved("adamuon", 1, draw), shrunk, strict=True):
        assert torch.equal(one, two)


def test_a_gradient_of_zeros_moves_nothing() -> None:
    before = [p.detach() for p in Stack().parameters()]
    for name in FAMILY:
        for one, two in zip(moved(name, 2, lambda p, _: torch.zeros_like(p), weight_decay=0.0), before, strict=True):
            assert torch.equal(one, two)


def test_stacked_projections_are_made_orthogonal_one_by_one() -> None:
    layer = nn.Linear(16, 48, bias=False)
    before = layer.weight.detach().clone()
    gradient = numbers(layer.weight.shape, 2)
    gradient[16:32] *= 1e-4  # one projection with tiny gradients still makes a whole step when it stands by itself
    layer.weight.grad = gradient
    layer.row_blocks = (16, 16, 16)  # type: ignore[assignment]
    muon.build(muon.Config(weight_decay=0.0), layer).step()
    parts = [float(part.norm()) for part in (layer.weight.detach() - before).split(16)]
    assert parts[1] == pytest.approx(parts[0], rel=0.3)


def test_parameters_without_gradient_stay() -> None:
    for module in FAMILY.values():
        model = language_model()
        optimizer = module.build(module.Config(), model)
        down = model.get_parameter("blocks.1.mlp.down.weight")
        qkv = model.get_parameter("blocks.1.attention.qkv.weight")  # its neighbour has no gradient
        down.grad, qkv.grad = torch.ones_like(down), torch.ones_like(qkv)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.step()
        changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        assert changed == {"blocks.1.mlp.down.weight", "blocks.1.attention.qkv.weight"}


def test_teon_differs_from_muon_in_attention_inputs_alone() -> None:
    for number, (one, two) in enumerate(zip(moved("teon", 1, draw), moved("muon", 1, draw), strict=True)):
        assert torch.equal(one, two) == bool(number % 2)
    for one, two in zip(moved("teon", 1, draw, coupling=0.0), moved("muon", 1, draw), strict=True):
        assert torch.equal(one, two)


def test_teon_leaves_the_last_of_three_layers_to_muon() -> None:
    models = [Stack(3), Stack(3)]
    for model, module in zip(models, (teon, muon), strict=True):
        for number, parameter in enumerate(model.parameters()):
            parameter.grad = draw(parameter, number)
        module.build(module.Config(), model).step()
    same = [torch.equal(one.qkv.weight, two.qkv.weight) for one, two in zip(*(m.layers for m in models), strict=True)]
    assert same == [False, False, True]


def test_teon_pairs_four_layers_two_by_two_and_a_shared_weight_once() -> None:
    def step(model: Stack) -> tuple[list[tuple[int, ...]], float]:
        optimizer = teon.build(teon.Config(), model)
        for number, parameter in enumerate(model.parameters()):
            parameter.grad = draw(parameter, number)
        optimizer.step()
        places = {weight: place for place, weight in enumerate(dict.fromkeys(m.qkv.weight for m in model.layers))}
        pairs = [tuple(places[weight] for weight in pair) for pair in optimizer._pairs]
        return pairs, optimizer.metrics()["teon_groups"]

    assert step(Stack(4)) == ([(0, 1), (2, 3)], 2 * len(ROWS))
    shared = Stack(4)
    shared.layers[1].qkv.weight = shared.layers[0].qkv.weight
    assert step(shared) == ([(0, 1)], len(ROWS)), "three weights: the last is alone"


def test_teon_measures_how_far_neighbours_agree() -> None:
    one, other = numbers(torch.Size((12, 20)), 1), numbers(torch.Size((12, 20)), 2)
    shared = numbers(torch.Size((20,)), 3)
    column = numbers(torch.Size((12, 1)), 4)
    for pair in [(one, other), (one + 9 * column * shared, other - 9 * column * shared), (one, one)]:
        vectors = [torch.linalg.svd(matrix.double())[2][0] for matrix in pair]
        expected = float((vectors[0] @ vectors[1]).abs())
        assert float(teon.alignment(*pair)) == pytest.approx(expected, abs=0.1)
    assert float(teon.alignment(one, one)) == pytest.approx(1.0, abs=1e-5)

    model = language_model()
    optimizer = teon.build(teon.Config(), model)
    assert optimizer.metrics() == {
        "muon_full_orth_updates": 0.0, "muon_update_rms": 0.0, "teon_groups": 0.0, "teon_alignment": 0.0,
    }  # fmt: skip
    train(model, optimizer, 2)
    metrics = optimizer.metrics()
    assert (metrics["muon_full_orth_updates"], metrics["teon_groups"]) == (12.0, 3.0)
    assert 0 < metrics["teon_alignment"] <= 1
    restored = teon.build(teon.Config(), model)
    restored.load_state_dict(optimizer.state_dict())
    assert restored.metrics()["teon_alignment"] == metrics["teon_alignment"]
