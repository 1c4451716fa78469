"""Conditioning on metadata: the code, the affine maps, and the samples that are trained without."""

import numpy as np
import pytest
import torch
from torch import nn

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
    inner = (2 * numbers(facts) - 1) @ numbers(control.inward).T + numbers(control.inward_bias)
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


def test_without_metadata_and_where_they_are_unknown_the_code_is_the_learned_one():
    control = moved(started(Control(len(CHANNELS), SIZE)))
    facts = channels()
    facts[1] = float("nan")
    facts[2, 3:, 0] = float("nan")
    code = control(facts)
    assert torch.equal(control(None), control.null[None, None])
    assert torch.equal(code[1], control.null.expand(5, -1))
    assert torch.equal(code[2, 3:], control.null.expand(2, -1))
    torch.testing.assert_close(code[0], control(facts[:1])[0])
    code.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in control.parameters())


def test_in_training_whole_rows_are_left_without_as_the_seed_says():
    control = moved(started(Control(len(CHANNELS), SIZE, dropout=0.25)))
    facts = channels(rows=4000, count=2)
    torch.manual_seed(5)
    first = control.train()(facts)
    torch.manual_seed(5)
    assert torch.equal(control(facts), first)
    without = (first == control.null).all(-1)
    assert torch.equal(without[:, 0], without[:, 1])
    assert 0.22 < without[:, 0].double().mean() < 0.28
    assert not (control.eval()(facts) == control.null).all(-1).any()


def test_no_dropout_draws_no_number():
    control = started(Control(len(CHANNELS), SIZE)).train()
    torch.manual_seed(5)
    control(channels())
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)


class Small(nn.Module):
    """A conditioned layer whose loss depends on rows with metadata and rows without."""

    def __init__(self):
        super().__init__()
        self.control, self.film = started(Control(len(CHANNELS), SIZE)), started(FiLM(SIZE, WIDTH))

    def forward(self, x, facts):
        return self.film(x, self.control(facts)).square().mean()


def test_every_parameter_gets_gradient_from_the_second_step_on():
    model = Small()
    x, facts = torch.randn(4, 5, WIDTH, generator=torch.Generator().manual_seed(3)), channels(rows=4)
    facts[0] = float("nan")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x, facts).backward()
    fresh = {name for name, parameter in model.named_parameters() if not parameter.grad.any()}
    assert fresh == {name for name, _ in model.named_parameters() if name.startswith("control.")}
    optimizer.step()
    optimizer.zero_grad()
    model(x, facts).backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("facts", [None, channels(rows=1), channels(count=1)], ids=["none", "one-row", "one-token"])
def test_one_code_serves_all_rows_or_all_tokens(facts):
    control, film = moved(started(Control(len(CHANNELS), SIZE))), moved(started(FiLM(SIZE, WIDTH)))
    x = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(3))
    code = control(facts)
    whole = film(x, code.expand(3, 5, -1))
    torch.testing.assert_close(film(x, code), whole, rtol=1e-5, atol=1e-6)
