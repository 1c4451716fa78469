"""Conditioning on metadata: the code, the affine maps, and the samples that are trained without."""

import numpy as np
import pytest
import torch

from eco.models import simone
from eco.models.contract import build_model
from eco.models.governance.control import CHANNELS, Control, FiLM

SIZE, WIDTH = 8, 12


def started(module, seed=0):
    """The module with its weights drawn."""
    with torch.no_grad():
        module.init_own(torch.Generator().manual_seed(seed))
    return module


def channels(rows=3, count=5, seed=1):
    """(rows, count, 5) in [0, 1]."""
    return torch.rand(rows, count, len(CHANNELS), generator=torch.Generator().manual_seed(seed))


def moved(module, seed=2):
    """The module with all its parameters away from where they start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def numbers(parameter):
    return parameter.detach().double().numpy()


def test_code_and_map_agree_with_a_reference_in_float64():
    control, film = moved(started(Control(len(CHANNELS), SIZE))), moved(started(FiLM(SIZE, WIDTH)))
    facts, x = channels(), torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(3))
    facts[1], facts[2, 3:, 0] = float("nan"), float("nan")
    known = ~np.isnan(numbers(facts))
    read = np.concatenate([np.nan_to_num(2 * numbers(facts) - 1, nan=0.0), known], -1)
    inner = read @ numbers(control.inward).T + numbers(control.inward_bias)
    code = inner / (1 + np.exp(-inner)) @ numbers(control.outward).T + numbers(control.outward_bias)
    scale = code @ numbers(film.scale).T + numbers(film.scale_bias)
    shift = code @ numbers(film.shift).T + numbers(film.shift_bias)
    np.testing.assert_allclose(control(facts).detach().numpy(), code, rtol=1e-5, atol=1e-5)
    expected = numbers(x) * scale + shift
    np.testing.assert_allclose(film(x, control(facts)).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_fresh_map_changes_no_number():
    film, x = started(FiLM(SIZE, WIDTH)), torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(3))
    code = started(Control(len(CHANNELS), SIZE))(channels())
    assert code.std() > 0.1
    assert torch.equal(film(x, code), x)


def test_without_metadata_the_code_is_a_learned_one_and_unknown_is_no_number():
    control, facts = moved(started(Control(len(CHANNELS), SIZE))), channels()
    facts[1] = float("nan")
    code, without = control(facts), control(None)
    assert without.shape == (1, 1, SIZE)
    torch.testing.assert_close(code[1:2], without.expand(1, 5, -1))
    half = facts.clone()
    half[2, :, 0], facts[2, :, 0] = 0.5, float("nan")
    assert (control(half)[2] - control(facts)[2]).abs().max() > 0.1
    code.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in control.parameters())


def test_in_training_rows_lose_all_metadata_or_some_as_the_seed_says():
    control = moved(started(Control(len(CHANNELS), SIZE, dropout=0.25))).train()
    rows, without = channels(rows=1, count=2).expand(4000, -1, -1), control(None)[0, 0]
    torch.manual_seed(5)
    first = control(rows)
    torch.manual_seed(5)
    assert torch.equal(control(rows), first)
    codes, counts = first.detach().mul(1e4).round().unique(dim=0, return_counts=True)
    shares = counts.sort(descending=True).values / len(rows)
    assert len(codes) == 2 ** len(CHANNELS)
    assert shares[:2].tolist() == pytest.approx([0.5 + 0.25 / 32, 0.25 + 0.25 / 32], abs=0.025)
    assert float((first - without).abs().amax((1, 2)).lt(1e-5).double().mean()) == pytest.approx(0.258, abs=0.025)
    torch.testing.assert_close(control.eval()(rows), control(rows[:1]).expand(4000, -1, -1))


def test_no_dropout_draws_no_number():
    control = started(Control(len(CHANNELS), SIZE)).train()
    torch.manual_seed(5)
    control(channels())
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)


@pytest.fixture
def conditioned():
    config = simone.Config(vocab_size=61, context=24, width=32, layers=2, heads=4, control=True, control_dropout=0.3)
    model = build_model(simone.build, config, 0, torch.device("cpu"))
    assert isinstance(model, simone.Simone)
    return model


@pytest.fixture
def batch():
    tokens = torch.randint(0, 61, (16, 24), generator=torch.Generator().manual_seed(7))
    return {"tokens": tokens, "targets": tokens.roll(-1, 1), "control": channels(16, 24)}


@torch.no_grad()
def test_a_fresh_model_is_exactly_the_unconditioned_one(conditioned, batch):
    plain = build_model(simone.build, conditioned.config.model_copy(update={"control": False}), 1, torch.device("cpu"))
    plain.load_state_dict({name: conditioned.state_dict()[name] for name in plain.state_dict()})
    expected = plain(batch["tokens"])
    assert torch.equal(conditioned(batch["tokens"], control=batch["control"]), expected)
    assert torch.equal(conditioned(batch["tokens"]), expected)


def test_every_parameter_gets_gradient_from_the_second_step_on(conditioned, batch):
    optimizer = torch.optim.SGD(conditioned.parameters(), lr=0.1)

    def without_gradient():
        optimizer.zero_grad()
        conditioned.train().training_step(batch).losses["lm"].backward()
        return {name for name, parameter in conditioned.named_parameters() if not parameter.grad.any()}

    torch.manual_seed(0)
    assert without_gradient() == {f"control.{name}" for name, _ in conditioned.control.named_parameters()}
    optimizer.step()
    assert without_gradient() == set()


@pytest.mark.parametrize("facts", [None, channels(rows=1), channels(count=1)], ids=["none", "one-row", "one-token"])
def test_one_code_serves_all_rows_or_all_tokens(facts):
    control, film = moved(started(Control(len(CHANNELS), SIZE))), moved(started(FiLM(SIZE, WIDTH)))
    x = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(3))
    code = control(facts)
    whole = film(x, code.expand(3, 5, -1))
    torch.testing.assert_close(film(x, code), whole, rtol=1e-5, atol=1e-6)
