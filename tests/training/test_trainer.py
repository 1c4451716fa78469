import copy

import pytest
import torch
from toy import Toy, samples, source, trainer

from eco.training.callbacks import Callback
from eco.training.distributed import World
from eco.training.precision import Precision
from eco.training.probe import Probe
from eco.training.trainer import STOPPED_ELSEWHERE, NonFiniteLoss


class Rows(Callback):
    """Keeps the rows of a run, and the steps at which it went back."""

    def __init__(self):
        self.rows, self.returns = [], []

    def step(self, trainer, row):
        self.rows.append(row)

    def rolled_back(self, trainer):
        self.returns.append(trainer.step)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_training_follows_plain_gradient_descent():
    model, reference = Toy(), Toy()
    run = trainer(model, steps=3)
    assert run.fit() == "steps"
    for step in range(3):
        output = reference.training_step(samples(step * 8, 8))
        reference.zero_grad()
        sum(output.losses.values()).backward()
        with torch.no_grad():
            for parameter in reference.parameters():
                parameter -= 0.1 * parameter.grad
    torch.testing.assert_close(weights(model), weights(reference))
    assert run.tokens == 3 * 8 * 4
    assert run.feed.position == 24


def test_accumulated_micro_batches_equal_one_large_batch():
    large, small = Toy(), Toy()
    trainer(large, batch_size=8, accumulation=1).fit()
    trainer(small, batch_size=2, accumulation=4).fit()
    torch.testing.assert_close(weights(large), weights(small))


def test_a_weight_for_a_loss_that_the_model_does_not_have_is_refused():
    with pytest.raises(ValueError, match="loss_weights names squared; the losses of this model are: square, absolute"):
        trainer(loss_weights={"squared": 0.5}).fit()


def test_loss_weights_weigh_and_zero_removes_a_loss():
    plain, weighted, without = Toy(), Toy(), Toy()
    trainer(plain).fit()
    trainer(weighted, loss_weights={"absolute": 1.0}).fit()
    trainer(without, loss_weights={"absolute": 0.0}).fit()
    assert torch.equal(weights(plain), weights(weighted))
    assert not torch.allclose(weights(plain), weights(without))


def test_clipping_bounds_the_update():
    model = Toy()
    before = weights(model)
    rows = Rows()
    trainer(model, steps=1, grad_clip=0.01, callbacks=[rows]).fit()
    assert rows.rows[0]["grad_norm"] > 0.01
    assert (weights(model) - before).norm() == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else():
    roomy, cramped, notes = Toy(), Toy(largest_batch=2), []
    trainer(roomy).fit()
    run = trainer(cramped, note=notes.append)
    run.fit()
    assert run.micro_batch == 2
    assert [note for note in notes if "out of memory" in note]
    torch.testing.assert_close(weights(roomy), weights(cramped))


def test_a_model_forgets_what_ran_out_of_memory():
    model, calls = Toy(largest_batch=2), []
    model.forget_step = lambda: calls.append("forget")
    model.after_step = lambda average: calls.append("end")
    trainer(model, steps=2).fit()
    assert calls == ["forget", "forget", "end", "end"]


def test_out_of_memory_with_one_sample_is_an_error():
    with pytest.raises(RuntimeError, match="allocate memory"):
        trainer(Toy(largest_batch=0)).fit()


def test_out_of_memory_in_the_optimizers_step_is_an_error_and_not_repeated():
    """It may have moved half of the weights: a second step of the same batch would be another one."""
    run, calls = trainer(), []

    def step():
        calls.append(run.micro_batch)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    run.optimizer.step = step
    with pytest.raises(RuntimeError, match="allocate memory"):
        run.fit()
    assert calls == [8] == [run.micro_batch] and run.step == 0


def test_a_step_with_a_nan_loss_is_skipped_and_counted():
    model, rows = Toy(), Rows()
    run = trainer(model, source(8, poison=range(2, 3)), callbacks=[rows])
    run.fit()
    assert run.skipped_steps == 1
    assert [row["skipped"] for row in rows.rows] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert weights(model).isfinite().all()


def test_fp16_scales_the_loss_learns_and_survives_a_nan():
    model, rows = Toy(), Rows()
    run = trainer(model, source(8, poison=range(20, 21)), callbacks=[rows], precision="fp16", steps=40)
    run.fit()
    assert [row["step"] for row in rows.rows if row["skipped"]] == [21]
    assert run.precision.scaler.get_scale() > 1
    assert rows.rows[-1]["loss"] < 0.1 * rows.rows[0]["loss"]


def saving_trainer(poison, **settings):
    """A trainer whose `restore` goes back to the state after its second step."""
    model, rows, saved = Toy(), Rows(), {}

    class Save(Callback):
        def step(self, trainer, row):
            if trainer.step == 2 and not saved:
                saved["model"] = copy.deepcopy(model.state_dict())
                saved["trainer"] = copy.deepcopy(trainer.state_dict())

    def restore():
        model.load_state_dict(saved["model"])
        run.load_state_dict(saved["trainer"])
        return True

    run = trainer(model, source(8, poison), callbacks=[rows, Save()], restore=restore, **settings)
    return run, model, rows, saved


def test_three_nan_losses_in_a_row_go_back_to_the_checkpoint_and_on_with_later_data():
    run, model, rows, _ = saving_trainer(range(4, 7), steps=10)
    run.fit()
    assert rows.returns == [2]
    assert [row["step"] for row in rows.rows] == [1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 7, 8, 9, 10]
    assert run.feed.position == (7 + 8) * 8  # seven batches before going back, eight steps after it
    assert weights(model).isfinite().all()
    assert run.skipped_steps == 3


def test_nan_losses_that_persist_after_going_back_stop_the_run():
    run, _, rows, _ = saving_trainer(range(4, 100), steps=50)
    with pytest.raises(NonFiniteLoss, match="lower --lr"):
        run.fit()
    assert rows.returns == [2]


def test_nan_losses_without_a_checkpoint_stop_the_run():
    with pytest.raises(NonFiniteLoss):
        trainer(Toy(), source(8, poison=range(9))).fit()


def test_budgets_of_tokens_and_minutes_end_the_run():
    run = trainer(Toy(), steps=100, tokens=5 * 8 * 4)
    assert (run.fit(), run.step) == ("tokens", 5)
    run = trainer(Toy(), steps=10_000_000, minutes=0.001)
    assert run.seconds_left == pytest.approx(0.06)
    assert run.fit() == "minutes"
    assert run.seconds_left <= 0


def test_a_callback_can_stop_the_run():
    class Stop(Callback):
        def step(self, trainer, row):
            if trainer.step == 3:
                trainer.stop("enough")

    run = trainer(Toy(), callbacks=[Stop()])
    assert (run.fit(), run.step) == ("enough", 3)


def test_state_round_trip_continues_bit_exactly():
    whole = Toy()
    trainer(whole, steps=8).fit()
    first = Toy()
    half = trainer(first, steps=4)
    half.fit()
    second = trainer(Toy(), steps=8)
    second.model.load_state_dict(first.state_dict())
    second.load_state_dict(half.state_dict())
    second.fit()
    assert torch.equal(weights(whole), weights(second.model))


def test_a_micro_batch_that_had_to_shrink_is_remembered_until_the_batch_size_changes():
    first = trainer(Toy(largest_batch=2))
    first.fit()
    same, smaller = trainer(Toy()), trainer(Toy(), batch_size=4, accumulation=2)
    same.load_state_dict(first.state_dict())
    smaller.load_state_dict(first.state_dict())
    assert (first.micro_batch, same.micro_batch, smaller.micro_batch) == (2, 2, 4)


def test_one_process_stops_them_all():
    class Two(World):
        """This process and another one, in which a callback asked to stop after the third step."""

        def agree(self, flag):
            return flag or run.step == 3

    run = trainer(Toy(), steps=9, world=Two())
    assert (run.fit(), run.step) == (STOPPED_ELSEWHERE, 3)


class Watcher(Callback):
    """What a callback sees around each update."""

    def __init__(self):
        self.seen = []

    def before_update(self, trainer, batch):
        self.seen.append(("before", trainer.step, len(batch["tokens"]), weights(trainer.model)))
        self.gradient = trainer.model.linear.weight.grad.clone()

    def after_update(self, trainer, batch, row):
        assert torch.equal(self.gradient, trainer.model.linear.weight.grad)
        self.seen.append(("after", trainer.step, len(batch["tokens"]), weights(trainer.model)))
        row["watched"] = 1


def test_callbacks_stand_around_each_update_but_not_around_a_skipped_one():
    watcher, rows = Watcher(), Rows()
    trainer(callbacks=[watcher, rows], batches=source(8, range(1, 2)), steps=3).fit()
    assert [(when, step) for when, step, *_ in watcher.seen] == [
        ("before", 0),
        ("after", 1),
        ("before", 2),
        ("after", 3),
    ]
    assert not torch.equal(watcher.seen[0][3], watcher.seen[1][3])
    assert torch.equal(watcher.seen[1][3], watcher.seen[2][3])
    assert [row.get("watched") for row in rows.rows] == [1, None, 1]


def test_a_probe_measures_without_training():
    model, other = Toy(), Toy()
    probe = Probe(model, Precision("fp32", torch.device("cpu")), rows=3)
    batch = samples(5, 8)
    losses = other.training_step(batch).losses
    sum(losses.values()).backward()
    assert probe.loss(batch) == pytest.approx(float(sum(losses.values()).detach()), rel=1e-6)
    model.linear.weight.grad = torch.ones_like(model.linear.weight)
    assert probe.backward(batch) == pytest.approx(probe.loss(batch))
    torch.testing.assert_close(model.linear.weight.grad, other.linear.weight.grad)
    assert torch.equal(weights(model), weights(other))


def test_an_optimizers_figures_are_in_the_row():
    rows = Rows()
    run = trainer(callbacks=[rows], steps=2)
    run.optimizer.metrics = lambda: {"toy_figure": run.step}
    run.fit()
    assert [row["toy_figure"] for row in rows.rows] == [1, 2]
