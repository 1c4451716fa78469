import math

import pytest
import torch
from toy import Toy, source, trainer

from eco.training.callbacks import Evaluation, Saving
from eco.training.config import CheckpointConfig
from eco.training.ema import WeightAverage
from eco.training.ledger import Ledger


def test_evaluation_runs_at_the_start_every_n_steps_and_at_the_end_and_knows_the_best():
    losses = iter([9.0, 5.0, 3.0, 4.0])
    evaluation = Evaluation(lambda: {"val_loss": next(losses)}, ["val_loss"], every=3, patience=0)
    trainer(Toy(), steps=8, callbacks=[evaluation]).fit()  # measured at 0, 3, 6 and 8
    assert evaluation.first == {"val_loss": 9.0}
    assert evaluation.latest == {"val_loss": 4.0}
    assert (evaluation.best_step, evaluation.best) == (6, [3.0])


def test_patience_stops_early():
    losses = iter([9.0, 5.0, 6.0, 7.0, 8.0])
    evaluation = Evaluation(lambda: {"val_loss": next(losses)}, ["val_loss"], every=1, patience=2)
    run = trainer(Toy(), steps=50, callbacks=[evaluation])
    assert "no better val_loss in 2" in run.fit()
    assert run.step == 3


def saved_steps(config, evaluation=None, **settings):
    steps = []
    saving = Saving(lambda best: steps.append((run.step, best)), config, evaluation)
    run = trainer(Toy(), callbacks=[*([evaluation] if evaluation else []), saving], **settings)
    run.fit()
    return steps


def test_saving_every_n_steps_and_at_the_end_but_never_twice():
    assert saved_steps(CheckpointConfig(every=3, seconds=0), steps=8) == [(3, False), (6, False), (8, False)]
    assert saved_steps(CheckpointConfig(every=4, seconds=0), steps=8) == [(4, False), (8, False)]


def test_saving_by_time_and_when_best():
    assert len(saved_steps(CheckpointConfig(every=0, seconds=1e-9), steps=5)) == 5
    losses = iter([9.0, 5.0, 6.0, 7.0])
    best_at_two = Evaluation(lambda: {"val_loss": next(losses)}, ["val_loss"], every=2, patience=0)
    assert saved_steps(CheckpointConfig(every=0, seconds=0), best_at_two, steps=6) == [(2, True), (6, False)]


def test_the_average_follows_the_formula_and_is_swapped_in_and_out():
    model = Toy()
    average = WeightAverage(model, decay=0.5)
    run = trainer(model, steps=1, callbacks=[average])
    before = [p.detach().clone() for p in model.parameters()]
    run.fit()
    after = [p.detach().clone() for p in model.parameters()]
    decay = min(0.5, 2 / 11)
    with average.applied():
        for weight, old, new in zip(model.parameters(), before, after, strict=True):
            torch.testing.assert_close(weight, decay * old + (1 - decay) * new)
    assert all(torch.equal(weight, new) for weight, new in zip(model.parameters(), after, strict=True))
    row = run.ledger.row()
    assert row["feature_ema_effective_calls"] == 1
    assert row["feature_ema_evidence"] > 0


def test_a_skipped_step_leaves_the_average_as_it_is():
    averages = []
    for poison in (range(0), range(4, 5)):
        model = Toy()
        average = WeightAverage(model, decay=0.9)
        run = trainer(model, source(8, poison), steps=4 + len(poison), callbacks=[average])
        run.fit()
        averages.append([tensor.clone() for tensor in average.state_dict()["average"].values()])
        assert run.ledger.row()["feature_ema_effective_calls"] == 4
    assert all(torch.equal(a, b) for a, b in zip(*averages, strict=True))


def test_averaging_does_not_change_training():
    plain, averaged = Toy(), Toy()
    trainer(plain).fit()
    trainer(averaged, callbacks=[WeightAverage(averaged, 0.9)]).fit()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), averaged.parameters(), strict=True))


def test_the_ledger_counts_only_effects():
    ledger = Ledger()
    ledger.enable("x")
    for evidence in (0.5, 0.0, math.nan, math.inf, 0.25):
        ledger.count("x", evidence)
    assert ledger.row() == {"feature_x_enabled": 1, "feature_x_effective_calls": 2, "feature_x_evidence": 0.25}
    with pytest.raises(AssertionError):
        ledger.count("y", 1.0)
    ledger.disable("z")
    assert ledger.row()["feature_z_enabled"] == 0
    again = Ledger()
    again.enable("x")
    again.load_state_dict(ledger.state_dict())
    assert again.row() | {"feature_z_enabled": 0} == ledger.row()


def test_of_equal_figures_the_next_one_decides():
    pairs = iter([(1.0, 9.0), (1.0, 8.0), (1.0, 7.0), (1.0, 7.5), (0.5, 9.0), (0.5, 9.0)])
    evaluation = Evaluation(lambda: dict(zip("ab", next(pairs), strict=True)), ["a", "b"], every=1, patience=0)
    trainer(Toy(), steps=5, callbacks=[evaluation]).fit()
    assert (evaluation.best_step, evaluation.best) == (4, [0.5, 9.0])
