"""Fixed-point inversion: against float64 references, as gradients of real blocks, and where it must not be trusted."""

import math

import pytest
import torch
from small_models import SIGMA_SIZES, SIZES
from torch import Tensor, nn

from eco.models import decoder, sigma
from eco.models.instant import InstantModel, contraction, fixed_point
from eco.models.instant.anderson import AIM, invert
from eco.models.instant.contraction import Contractions, contracted, lipschitz_constant
from eco.models.instant.fixed_point import fixed_point_segment
from eco.models.instant.replay import SubLayer
from eco.models.instant.tally import Tally

ROWS, POSITIONS, WIDTH = 3, 20, 32


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def matrix(largest: float, seed: int = 0) -> Tensor:
    """(D, D) float64 with singular values from `largest` down to 0."""
    left, _, right = torch.linalg.svd(noise(WIDTH, WIDTH, seed=seed, dtype=torch.float64))
    return left @ torch.linspace(largest, 0, WIDTH, dtype=torch.float64).diag() @ right


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.double().flatten(), b.double().flatten()
    return float(a @ b / (a.norm() * b.norm()))


def plain_iterations(weight: Tensor, y: Tensor, tolerance: float) -> int:
    """How many evaluations x <- y - x W takes to bring the residual of all samples below the tolerance."""
    x = y
    for count in range(1, 100):
        residual = y - x - x @ weight
        if float((residual.flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)).max()) <= tolerance:
            return count
        x = x + residual
    raise AssertionError("does not converge")


@pytest.mark.parametrize("constant", [0.25, 0.5, 0.9])
def test_the_inverse_is_that_of_linear_algebra_and_faster_than_plain_iteration(constant: float) -> None:
    """A symmetric W: on one whose eigenvalues fill a ring, no combination of iterates is better than the last."""
    weight, x = matrix(constant), noise(ROWS, POSITIONS, WIDTH, dtype=torch.float64)
    weight = (weight + weight.mT) / 2
    weight *= constant / torch.linalg.matrix_norm(weight, 2)
    y = x + x @ weight
    exact = torch.linalg.solve(torch.eye(WIDTH, dtype=torch.float64) + weight.mT, y.mT).mT
    found = invert(lambda z: z @ weight, y, tolerance=1e-4, evaluations=40)
    assert found.residual <= 1e-4
    torch.testing.assert_close(found.x, exact, atol=1e-2, rtol=0)
    assert found.evaluations < plain_iterations(weight, y, AIM * 1e-4)


def test_the_inverse_of_a_nonlinear_map_is_that_of_a_thousand_plain_iterations() -> None:
    weight, y = matrix(0.5), noise(ROWS, POSITIONS, WIDTH, dtype=torch.float64)
    x = y
    for _ in range(1000):
        x = y - (x @ weight).tanh()
    found = invert(lambda z: (z @ weight).tanh(), y, tolerance=1e-6, evaluations=30)
    torch.testing.assert_close(found.x, x, atol=1e-5, rtol=0)


def test_a_sample_is_inverted_as_if_it_were_alone() -> None:
    weight, y = (
        matrix(0.5),
        noise(ROWS, POSITIONS, WIDTH, dtype=torch.float64) * torch.tensor([1, 10, 0.1])[:, None, None],
    )
    together = invert(lambda z: (z @ weight).tanh(), y, tolerance=0.0, evaluations=5)
    for row in range(ROWS):
        alone = invert(lambda z: (z @ weight).tanh(), y[row : row + 1], tolerance=0.0, evaluations=5)
        torch.testing.assert_close(together.x[row : row + 1], alone.x, atol=1e-8, rtol=1e-8)


def test_damped_steps_solve_what_plain_ones_do_not() -> None:
    """g(x) = 1.8 x - x^3 / 9 entry by entry: plain iteration flies apart, half a step contracts."""
    x = noise(2, 4, 4, dtype=torch.float64).clamp(-1, 1)
    y = x + 1.8 * x - x**3 / 9
    found = invert(lambda z: 1.8 * z - z**3 / 9, y, tolerance=1e-6, evaluations=40)
    assert found.residual <= 1e-6
    torch.testing.assert_close(found.x, x, atol=1e-5, rtol=0)


def test_where_rounding_stops_progress_it_stops_trying() -> None:
    """What is striven for is out of reach, as g moves in steps of a tenth; the tolerance is not."""
    weight, x, tolerance = noise(32, 32, seed=1) / 32**0.5 / 4, noise(2, 20, 32), 4e-3

    def g(z: Tensor) -> Tensor:
        return (z * 10).round() / 10 @ weight

    best = invert(g, x + g(x), tolerance=0.0, evaluations=30)
    found = invert(g, x + g(x), tolerance=tolerance, evaluations=30)
    assert AIM * tolerance < best.residual < found.residual <= tolerance
    assert found.evaluations < 10


@pytest.mark.parametrize("g", [lambda x: 20 * x.sin(), lambda x: x * math.nan], ids=["wild", "nan"])
def test_what_is_not_solved_says_so(g) -> None:
    x = noise(2, 4, 8)
    found = invert(g, x + g(x).nan_to_num(), tolerance=1e-3, evaluations=8)
    assert found.evaluations == 8 and found.residual > 1e-3


def layer(weight: Tensor, seed: int = 0) -> SubLayer:
    """tanh(norm(x) W), mixed over the positions, and the mean square of that as a further output."""
    weight = nn.Parameter(weight.clone())

    def run(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        normal = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        y = torch.tanh(normal @ weight)
        y = y + y.cumsum(1) / torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]
        return y, (y.square().mean(),)

    return SubLayer.of(run, weight)


def test_the_constant_is_the_jacobians_largest_singular_value() -> None:
    sublayer, x = layer(matrix(0.7)), noise(2, 5, WIDTH, dtype=torch.float64) * torch.tensor([1, 3])[:, None, None]
    largest = 0.0
    for row in x.split(1):
        jacobian = torch.autograd.functional.jacobian(lambda z: sublayer.run(z)[0], row)
        largest = max(largest, float(torch.linalg.svdvals(jacobian.reshape(row.numel(), row.numel()))[0]))
    found = float(lipschitz_constant(sublayer, x, iterations=40))
    assert found == pytest.approx(largest, rel=0.02)
    usual = float(lipschitz_constant(sublayer, x))
    assert 0.85 * largest < usual < 1.02 * largest


def stack(count: int, dtype: torch.dtype) -> list[SubLayer]:
    return [layer(matrix(0.7, seed).to(dtype)) for seed in range(count)]


def ready(count: int, factor: float = 1.0) -> Contractions:
    contractions = Contractions(count)
    contractions.init_own(torch.Generator())
    contractions.factors.fill_(factor)
    return contractions


def toy_gradients(run, sublayers: list[SubLayer], x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y, further = run(sublayers, x)
    loss = (y * noise(*y.shape, seed=9, dtype=y.dtype)).sum() + sum(
        scale * value for scale, value in enumerate(further, 1)
    )
    return list(torch.autograd.grad(loss, [x, *(p for sublayer in sublayers for p in sublayer.parameters)]))


def test_gradients_are_those_of_float64_autograd() -> None:
    """The reference is written out here: x <- x + 0.2 f(x), nothing inverted, nothing shared with what is tested."""

    def reference(sublayers: list[SubLayer], x: Tensor) -> tuple[Tensor, list[Tensor]]:
        further = []
        for sublayer in sublayers:
            delta, more = sublayer.run(x)
            x, further = x + 0.2 * delta, [*further, *more]
        return x, further

    x, tally, contractions = noise(ROWS, POSITIONS, WIDTH), Tally(), ready(6, 0.2)
    expected = toy_gradients(reference, stack(6, torch.float64), x.double())
    found = toy_gradients(
        lambda layers, z: fixed_point_segment(layers, z, contractions, 0, 8, tally), stack(6, torch.float32), x
    )
    assert min(cosine(a, b) for a, b in zip(found, expected, strict=True)) > 0.9999
    assert len(tally.inversions) == 5 and tally.fallbacks == 0, "of six inputs one is kept, five are solved for"
    assert all(1 < count <= 8 and residual <= fixed_point.TOLERANCE for count, residual in tally.inversions)


def test_where_nothing_contracts_the_gradient_is_still_right() -> None:
    sublayers, x, tally = stack(6, torch.float64), noise(ROWS, POSITIONS, WIDTH, dtype=torch.float64), Tally()
    constant = float(lipschitz_constant(sublayers[0], x, iterations=20))
    contractions = ready(6, 2 / constant).double()
    expected = toy_gradients(lambda layers, z: contracted(layers, z, contractions, 0), sublayers, x)
    found = toy_gradients(lambda layers, z: fixed_point_segment(layers, z, contractions, 0, 8, tally), sublayers, x)
    assert tally.fallbacks > 0
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2 * float(b.abs().max()))
        assert cosine(a, b) > 0.9999


def test_one_fallback_costs_one_forward_pass_of_what_lies_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six sub-layers the fourth is not solved: three are computed forward once, and nothing is solved from there."""
    calls, solved, tally, contractions = [0] * 6, [], Tally(), ready(6, 0.2)
    x = noise(ROWS, POSITIONS, WIDTH)

    def counting(sublayer: SubLayer, index: int) -> SubLayer:
        def run(z: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            calls[index] += 1
            return sublayer.run(z)

        return sublayer._replace(run=run)

    def failing(*arguments, **limits):
        found = invert(*arguments, **limits)
        solved.append(found.evaluations)
        return found._replace(x=found.x + 100, residual=1.0) if len(solved) == 3 else found

    expected = toy_gradients(lambda layers, z: contracted(layers, z, contractions, 0), stack(6, torch.float32), x)
    sublayers = [counting(sublayer, index) for index, sublayer in enumerate(stack(6, torch.float32))]
    monkeypatch.setattr(fixed_point, "invert", failing)
    found = toy_gradients(lambda layers, z: fixed_point_segment(layers, z, contractions, 0, 8, tally), sublayers, x)
    last, fifth, fourth = solved
    assert calls == [3, 3, 3, 2 + fourth, 2 + fifth, 2 + last] and tally.fallbacks == 3
    assert min(cosine(a, b) for a, b in zip(found, expected, strict=True)) > 0.9999


def test_inversions_that_are_believed_too_easily_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_point, "TOLERANCE", 1.0)
    sublayers, x, tally, contractions = stack(6, torch.float32), noise(ROWS, POSITIONS, WIDTH), Tally(), ready(6, 0.5)
    expected = toy_gradients(lambda layers, z: contracted(layers, z, contractions, 0), sublayers, x)
    found = toy_gradients(lambda layers, z: fixed_point_segment(layers, z, contractions, 0, 8, tally), sublayers, x)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert tally.fallbacks == 5 and tally.residuals == [0.0], "the walk was made again, over streams computed forward"


def test_autograd_keeps_two_streams() -> None:
    sublayers, x = stack(6, torch.float32), noise(ROWS, POSITIONS, WIDTH).requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        fixed_point_segment(sublayers, x, ready(6, 0.2), 0, 8, Tally())
    assert [tuple(tensor.shape) for tensor in kept] == [(ROWS, POSITIONS, WIDTH)] * 2


MODELS = {
    "sigma": sigma.Config(**SIGMA_SIZES, dropout=0.1),
    "sigma-plain": sigma.Config(**SIGMA_SIZES, quant_mode="none", dropout=0.1),
    "decoder": decoder.Config(**SIZES, kv_heads=2, dropout=0.1),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 0.9999), (torch.bfloat16, 0.999)], ids=["fp32", "bf16"])
def test_gradients_of_models_are_autograds(make, name: str, dtype: torch.dtype, least: float) -> None:
    """Experts, ternary weights, dropout and noise on the router: what a run repeats, it repeats."""
    model: InstantModel = make(MODELS[name]).train()
    sublayers = [sublayer for pair in model.sublayers(model.rotary(0, POSITIONS)) for sublayer in pair]
    contractions, tally, x = ready(len(sublayers)), Tally(), noise(ROWS, POSITIONS, WIDTH)
    with contractions.calibrating(), torch.no_grad():
        contracted(sublayers, x, contractions, 0)

    def gradients(run) -> tuple[float, dict[str, Tensor]]:
        model.zero_grad(set_to_none=True)
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            y, further = run()
        loss = (y * noise(*y.shape, seed=9)).sum() + 10 * sum(further)
        loss.backward()
        return loss.item(), {n: p.grad.clone() for n, p in model.blocks.named_parameters() if p.grad is not None}

    value, expected = gradients(lambda: contracted(sublayers, x, contractions, 0))
    again, found = gradients(lambda: fixed_point_segment(sublayers, x, contractions, 0, 8, tally))
    assert again == value and found.keys() == expected.keys()
    assert (
        cosine(torch.cat([g.flatten() for g in found.values()]), torch.cat([g.flatten() for g in expected.values()]))
        > least
    )
    assert tally.fallbacks == 0 and len(tally.inversions) == len(sublayers) - 1


def test_calibrated_sublayers_contract_by_half() -> None:
    contractions, x = ready(4), noise(ROWS, POSITIONS, WIDTH)
    sublayers = stack(4, torch.float32)
    for _ in range(2):
        with contractions.calibrating(), torch.no_grad():
            contracted(sublayers, x, contractions, 0)
    assert contractions.lipschitz.tolist() == pytest.approx([contraction.BOUND] * 4, rel=1e-4)
    before = contractions.factors.clone()
    with torch.no_grad():
        contracted(sublayers, x, contractions, 0)
    assert torch.equal(contractions.factors, before), "only calibration moves them"


def test_what_contracts_anyway_is_left_alone() -> None:
    contractions = ready(1)
    with contractions.calibrating(), torch.no_grad():
        contracted([layer(matrix(0.01).float())], noise(ROWS, POSITIONS, WIDTH), contractions, 0)
    assert contractions.factors.tolist() == [1.0] and 0 < contractions.lipschitz < contraction.BOUND
