"""Auxiliary losses warm in; a model that has none trains and logs as if there were no such thing."""

import pytest
import torch
from toy import WIDTH, Toy, samples, trainer

from eco.training.callbacks import Callback


class Rows(Callback):
    """Keeps the rows of a run."""

    def __init__(self):
        self.rows = []

    def step(self, trainer, row):
        self.rows.append(row)


class Helped(Toy):
    """The toy, whose training is about the square; the absolute error helps."""

    main_losses = frozenset({"square"})
    loss_weights = {"absolute": 0.5}  # noqa: RUF012


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def rows_of(model, **settings):
    kept = Rows()
    trainer(model, callbacks=[kept], **settings).fit()
    return kept.rows


@pytest.mark.parametrize(("share", "ramp"), [(0.5, [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1]), (0.0, [1.0] * 8)])
def test_the_weight_rises_linearly_and_stays(share, ramp):
    rows = rows_of(Helped(), steps=8, auxiliary_warmup=share)
    for row, warmth in zip(rows, ramp, strict=True):
        assert row["loss_weighted/absolute"] == pytest.approx(0.5 * warmth * row["loss/absolute"], rel=1e-6)
        assert row["loss_weighted/square"] == pytest.approx(row["loss/square"], rel=1e-6)
        assert row["loss"] == pytest.approx(row["loss_weighted/absolute"] + row["loss_weighted/square"], rel=1e-6)


def test_what_is_logged_is_what_is_trained():
    model, reference = Helped(), Helped()
    rows_of(model, steps=4, auxiliary_warmup=1.0, loss_weights={"absolute": 2.0})
    for step in range(4):
        losses = reference.training_step(samples(step * 8, 8)).losses
        reference.zero_grad()
        (losses["square"] + 2.0 * (step + 1) / 5 * losses["absolute"]).backward()
        with torch.no_grad():
            for parameter in reference.parameters():
                parameter -= 0.1 * parameter.grad
    torch.testing.assert_close(weights(model), weights(reference))


def test_the_ramp_goes_on_where_a_run_does():
    rows, kept = rows_of(Helped(), auxiliary_warmup=0.5), Rows()
    begun = trainer(Helped(), auxiliary_warmup=0.5, tokens=3 * 8 * WIDTH)
    begun.fit()
    rest = trainer(Helped(), auxiliary_warmup=0.5, callbacks=[kept])
    rest.model.load_state_dict(begun.model.state_dict())
    rest.load_state_dict(begun.state_dict())
    rest.fit()
    assert [row["loss"] for row in kept.rows] == [row["loss"] for row in rows[3:]]


def test_models_without_auxiliary_losses_know_nothing_of_it():
    cold, warm = Toy(), Toy()
    rows = rows_of(cold, auxiliary_warmup=1.0)
    rows_of(warm, auxiliary_warmup=0.0)
    assert torch.equal(weights(cold), weights(warm))
    assert not any(name.startswith("loss_weighted") for row in rows for name in row)
