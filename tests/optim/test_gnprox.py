"""GNProx: Sophia against its formula, the damping against losses that fit and do not, SOAP against its paper."""

import copy
import math
import statistics
from collections.abc import Iterator

import pytest
import torch
from every_optimizer import language_model, sentences
from torch import Tensor, nn

from eco.models import gpt2
from eco.models.contract import Batch, build_model
from eco.observe.phases import Phases
from eco.optim import gnprox
from eco.optim.parts import eigenbasis
from eco.optim.parts.damping import Damping
from eco.optim.parts.soap import Soap
from eco.optim.parts.sophia import Sophia
from eco.training.callbacks import Callback, Row
from eco.training.config import TrainConfig
from eco.training.curvature import Curvature
from eco.training.precision import Precision
from eco.training.trainer import Trainer

SOAP = gnprox.Config(gn_mode="soap", lr=0.05, beta1=0.9, beta2=0.8, weight_decay=0.1, soap_every=2)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(rows: int, columns: int) -> nn.Linear:
    """A float64 matrix without bias."""
    linear = nn.Linear(columns, rows, bias=False, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(numbers(rows, columns, seed=99))
    return linear


def sophia(model: nn.Module, **settings: float) -> Sophia:
    optimizer = gnprox.build(gnprox.Config(**settings), model)
    assert isinstance(optimizer, Sophia)
    return optimizer


def test_sophia_is_the_formula() -> None:
    model = layer(3, 4)
    lr, beta1, beta2, eps, rho, damping, decay, count = 0.1, 0.9, 0.7, 1e-3, 0.5, 0.02, 0.2, 50
    optimizer = sophia(
        model, lr=lr, beta1=beta1, beta2=beta2, eps=eps, sophia_rho=rho, damping=damping, weight_decay=decay
    )
    weights = model.weight.flatten().tolist()
    means, curvatures, refreshes = [0.0] * 12, [0.0] * 12, 0
    seen: set[str] = set()
    for step in range(1, 7):
        gradient = numbers(3, 4, seed=step) * torch.logspace(-3, 0, 12, dtype=torch.float64).view(3, 4)
        model.weight.grad = gradient
        optimizer.measure = step % 2 == 0
        optimizer.step()
        linear = quadratic = curved = 0.0
        for i, g in enumerate(gradient.flatten().tolist()):
            means[i] = beta1 * means[i] + (1 - beta1) * g
            curvature = curvatures[i] / (1 - beta2**refreshes) if refreshes else 0.0
            ratio = means[i] / (1 - beta1**step) / max(rho * (curvature + damping), eps)
            seen.add("clipped" if abs(ratio) > 1 else "curved")
            curved += abs(ratio) < 1
            new = weights[i] * (1 - lr * decay) - lr * max(-1.0, min(1.0, ratio))
            linear += g * (new - weights[i])
            quadratic += curvature * (new - weights[i]) ** 2 / 2
            weights[i] = new
        assert model.weight.flatten().tolist() == pytest.approx(weights, rel=1e-12)
        if step % 2:
            assert optimizer.outcome is None
        else:
            assert optimizer.outcome == pytest.approx((linear, quadratic, curved / 12), rel=1e-9)
        if step in (1, 4):
            sample = numbers(3, 4, seed=100 + step) * 0.1
            model.weight.grad, refreshes = sample, refreshes + 1
            mean = optimizer.refresh(count)
            assert mean == pytest.approx(count * float(sample.square().mean()), rel=1e-5)
            for i, s in enumerate(sample.flatten().tolist()):
                curvatures[i] = beta2 * curvatures[i] + (1 - beta2) * count * s * s
    assert seen == {"clipped", "curved"}


def test_sophia_tells_what_it_did() -> None:
    model = layer(3, 4)
    optimizer = sophia(model)
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()
    assert optimizer.metrics() == {"gnprox_damping": optimizer.damping.value, "gnprox_step_elements": 12}
    optimizer.measure = True
    optimizer.step()
    assert optimizer.metrics()["gnprox_curvature_ratio"] == 0, "with no curvature yet, every weight is clipped"
    assert not optimizer.measure, "one step was asked for"


@pytest.mark.parametrize(
    ("linear", "quadratic", "actual", "ratio", "factor"),
    [
        (-2.0, 1.0, 0.2, 0.2, 2.0),
        (-2.0, 1.0, -3.0, -3.0, 2.0),
        (-2.0, 1.0, 0.5, 0.5, 1.0),
        (-2.0, 1.0, 0.8, 0.8, 0.5),
        (-2.0, 3.0, 0.8, None, 2.0),  # too long a step by the model's own account
        (0.5, 1.0, 0.8, None, 1.0),  # momentum went uphill: no promise
    ],
)
def test_the_damping_follows_what_was_kept_of_the_promise(linear, quadratic, actual, ratio, factor) -> None:
    damping = Damping(0.1, least=0.01, most=1.0, up=2.0, down=0.5)
    assert damping.judge(linear, quadratic, actual) == (None if ratio is None else pytest.approx(ratio))
    assert damping.value == pytest.approx(0.1 * factor)
    for _ in range(9):
        damping.judge(linear, quadratic, actual)
    assert damping.value == pytest.approx({2.0: 1.0, 1.0: 0.1, 0.5: 0.01}[factor]), "it stays between its bounds"


@pytest.mark.parametrize("bounds", [{"damping": 2.0}, {"damping": 1e-7}, {"damping_min": 0.1, "damping_max": 0.01}])
def test_a_damping_beyond_its_bounds_is_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must lie between --gn-damping-min"):
        gnprox.Config(**bounds)


def descend(loss, told: float, steps: int) -> tuple[Sophia, list[float]]:
    """Minimises a function of 8 weights without momentum, told that its curvature is `told`."""
    model = layer(2, 4)
    optimizer = sophia(
        model, lr=1.0, beta1=0.0, beta2=0.0, weight_decay=0.0, sophia_rho=1.0, damping=0.1, damping_max=1e6
    )
    losses = []
    for _ in range(steps):
        value = loss(model.weight)
        losses.append(float(value.detach()))
        (model.weight.grad,) = torch.autograd.grad(value, model.weight)
        optimizer.measure = True
        optimizer.step()
        outcome = optimizer.outcome
        assert outcome is not None
        optimizer.damping.judge(outcome.linear, outcome.quadratic, losses[-1] - float(loss(model.weight.detach())))
        model.weight.grad = torch.full_like(model.weight, math.sqrt(told))
        optimizer.refresh(1)
    return optimizer, losses


def test_where_the_quadratic_model_fits_the_damping_falls() -> None:
    optimizer, losses = descend(lambda w: 1.5 * w.square().sum(), told=3.0, steps=60)
    assert optimizer.damping.value < 1e-4 * 0.1
    assert losses[-1] < 1e-12


def test_where_it_promises_too_much_the_damping_rises_until_steps_hold() -> None:
    def wall(w: Tensor) -> Tensor:
        return (20 * w).cosh().log().sum()  # slopes of 20, and a curvature of 400 only at the bottom

    optimizer, losses = descend(wall, told=0.01, steps=80)
    assert optimizer.damping.value > 10
    assert losses[-1] < losses[0] / 10


def test_soap_with_the_identity_for_a_basis_is_adamw() -> None:
    ours, theirs = layer(5, 7), layer(5, 7)
    soap = gnprox.build(SOAP.model_copy(update={"soap_largest_side": 4}), ours)
    adam = torch.optim.AdamW(theirs.parameters(), lr=0.05, betas=(0.9, 0.8), weight_decay=0.1)
    ours.weight.grad = numbers(5, 7)
    soap.step()
    assert torch.equal(ours.weight, theirs.weight), "the first gradient only starts the bases"
    for step in range(1, 8):
        ours.weight.grad = theirs.weight.grad = numbers(5, 7, seed=step)
        soap.step()
        adam.step()
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-12, atol=0)


class PublishedSoap:
    """Algorithm 3 of arXiv 2409.11321 for one matrix, with the momentum in the coordinates of the weights."""

    def __init__(self, weight: Tensor, sides: tuple[bool, bool]) -> None:
        rows, columns = weight.shape
        self.weight, self.sides, self.count = weight.clone(), sides, -1
        self.m, self.v = torch.zeros_like(weight), torch.zeros_like(weight)
        self.grams = [torch.zeros(n, n, dtype=torch.float64) for n in (rows, columns)]
        self.bases = [torch.eye(n, dtype=torch.float64) for n in (rows, columns)]

    def step(self, g: Tensor, config: gnprox.Config) -> None:
        beta1, beta2 = config.beta1, config.beta2
        self.count += 1
        self.grams = [beta2 * a + (1 - beta2) * x for a, x in zip(self.grams, (g @ g.T, g.T @ g), strict=True)]
        if self.count == 0:
            self.bases = [torch.linalg.eigh(a)[1] if has else q for a, q, has in self.each()]
            return
        q, p = self.bases
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * (q.T @ g @ p) ** 2
        m = q.T @ self.m @ p / (1 - beta1**self.count)
        n = m / ((self.v / (1 - beta2**self.count)).sqrt() + config.eps)
        self.weight = self.weight * (1 - config.lr * config.weight_decay) - config.lr * q @ n @ p.T
        if self.count % config.soap_every == 0:
            fresh = []
            for side, (a, basis, has) in enumerate(self.each()):
                order = torch.diag(basis.T @ a @ basis).sort(descending=True).indices
                if has:
                    self.v = self.v[order] if side == 0 else self.v[:, order]
                    basis = torch.linalg.qr(a @ basis[:, order])[0]
                fresh.append(basis)
            self.bases = fresh

    def each(self):
        return list(zip(self.grams, self.bases, self.sides, strict=True))


@pytest.mark.parametrize(("largest", "sides"), [(8, (True, True)), (6, (True, False))])
def test_soap_is_the_published_algorithm_for_each_block_of_rows(largest: int, sides: tuple[bool, bool]) -> None:
    model = layer(10, 8)
    model.row_blocks = (6, 4)  # type: ignore[assignment]
    config = SOAP.model_copy(update={"soap_largest_side": largest})
    optimizer = gnprox.build(config, model)
    references = [PublishedSoap(block, sides) for block in model.weight.detach().split((6, 4))]
    for step in range(12):
        model.weight.grad = numbers(10, 8, seed=step) @ numbers(8, 8, seed=77)
        optimizer.step()
        for reference, gradient in zip(references, model.weight.grad.split((6, 4)), strict=True):
            reference.step(gradient, config)
        expected = torch.cat([reference.weight for reference in references])
        torch.testing.assert_close(model.weight.detach(), expected, rtol=1e-9, atol=1e-9)


def test_power_iteration_finds_the_eigenvectors_of_new_products() -> None:
    state = eigenbasis.begin(numbers(6, 9), 0.9, 16)
    turn = torch.linalg.qr(numbers(6, 6, seed=5))[0]
    eigenvalues = torch.tensor([32.0, 16, 8, 4, 2, 1], dtype=torch.float64)
    state["left_products"] = turn * eigenvalues @ turn.T
    square, seen = state["square"].copy_(numbers(6, 9).square()), numbers(6, 9, seed=6)
    eigenbasis.refresh(state)
    assert not torch.equal(state["square"], square)
    for _ in range(40):
        eigenbasis.refresh(state)
    found = state["left"].T @ state["left_products"] @ state["left"]
    torch.testing.assert_close(found, torch.diag(eigenvalues))
    torch.testing.assert_close(eigenbasis.out_of(state, eigenbasis.into(state, seen)), seen)


def test_soap_leaves_embedding_and_head_to_adamw() -> None:
    model = build_model(
        gpt2.build, gpt2.Config(width=16, layers=1, heads=2, vocab_size=20, context=8), 0, torch.device("cpu")
    )
    optimizer = gnprox.build(SOAP, model)
    assert isinstance(optimizer, Soap)
    turned = {p for group in optimizer.param_groups if "largest_side" in group for p in group["params"]}
    assert turned and all(p.ndim == 2 and p is not model.embedding.weight for p in turned)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    rest = [p for p in model.parameters() if p not in turned]
    assert optimizer.metrics() == {"gnprox_step_elements": sum(p.numel() for p in rest)}


def final_loss(look: bool) -> float:
    """Of a small language model that Sophia trains at a high rate, with the samples of its callback or as they come."""
    model, config = language_model(), gnprox.Config(lr=0.01, beta1=0.9)
    optimizer, losses, precision = sophia(model, lr=0.01, beta1=0.9), [], Precision("fp32", torch.device("cpu"))

    class Losses(Callback):
        def step(self, trainer: Trainer, row: Row) -> None:
            losses.append(row["loss"])

    def source(position: int) -> Iterator[Batch]:
        for step in range(80):
            tokens = sentences(step)
            yield {"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}

    callbacks = [Losses(), *([Curvature(optimizer, config, model, precision)] if look else [])]
    loop = TrainConfig(steps=80, batch_size=8, schedule="constant")
    Trainer(loop, model, optimizer, source, precision, Phases(precision.device), callbacks=callbacks).fit()
    return statistics.mean(losses[-10:])


def test_the_curvature_makes_sophia_learn_more_than_the_sign_of_its_momentum() -> None:
    assert final_loss(look=True) < final_loss(look=False) - 0.02


def test_a_restored_sophia_goes_on_bit_by_bit_with_its_damping_and_counts() -> None:
    model = layer(3, 4)
    optimizer = sophia(model, lr=0.1)

    def go(network: nn.Linear, by: Sophia, start: int) -> None:
        for step in range(start, start + 3):
            network.weight.grad = numbers(3, 4, seed=step)
            by.step()
            by.refresh(10)

    go(model, optimizer, 0)
    optimizer.damping.value = 0.3
    other = copy.deepcopy(model)
    restored = sophia(other, lr=0.1)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    go(model, optimizer, 3)
    go(other, restored, 3)
    assert torch.equal(model.weight, other.weight)
    assert optimizer.state_dict()["sophia"] == restored.state_dict()["sophia"] == {
        "steps": 6, "refreshes": 6, "damping": 0.3,
    }  # fmt: skip


@pytest.mark.parametrize(("saved", "run"), [("sophia", "soap"), ("soap", "sophia")])
def test_the_state_of_the_other_mode_is_refused(saved: str, run: str) -> None:
    states = {mode: gnprox.build(gnprox.Config(gn_mode=mode), layer(3, 4)) for mode in (saved, run)}
    with pytest.raises(ValueError, match=f"go on with --gn-mode {saved}"):
        states[run].load_state_dict(states[saved].state_dict())
