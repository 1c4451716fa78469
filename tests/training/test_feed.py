"""A model that works on each sample for several steps: who gets fresh samples, and when."""

import pytest
import torch
from toy import Toy, trainer

from eco.models.contract import StepOutput
from eco.training.callbacks import Callback
from eco.training.distributed import World
from eco.training.feed import Feed


def numbered(count: int):
    """A source of batches whose tokens are the numbers of their samples."""

    def batches(position: int):
        while True:
            tokens = torch.arange(position, position + count).float()[:, None].expand(-1, 4) / 100
            yield {"tokens": tokens, "targets": tokens.sum(1, keepdim=True)}
            position += count

    return batches


class Patient(Toy):
    """Works on sample n for n % 3 + 1 steps; `seen` are the numbers of the samples of each step, in order of rows."""

    carries = True

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.fresh = [], []

    def training_step(self, batch, carry=None):
        numbers = (batch["tokens"][:, 0] * 100).round().long()
        fresh = batch["fresh"] if carry else torch.ones(len(numbers), dtype=torch.bool)
        age = torch.where(fresh, 0, carry["age"] if carry else 0) + 1
        self.seen += [numbers.tolist()]
        self.fresh += numbers[fresh].tolist()
        output = super().training_step(batch)
        done = age > numbers % 3
        metrics = {"done_share": done.float(), "done_age": age.float().masked_fill(~done, torch.nan)}
        return StepOutput(output.losses, metrics, {"age": age, "halted": done})


def run(batch_size=4, accumulation=1, **settings):
    model = Patient()
    return trainer(
        model, numbered(batch_size * accumulation), batch_size=batch_size, accumulation=accumulation, **settings
    )


def test_only_rows_that_are_done_get_a_fresh_sample_and_every_sample_comes_once_in_its_order():
    training = run(steps=12)
    training.fit()
    fresh = training.model.fresh
    assert fresh == list(range(len(fresh)))
    assert training.feed.position == len(fresh)
    steps = [number for rows in training.model.seen for number in rows]
    done = [number for number in fresh if number not in training.feed.rows["tokens"][:, 0].mul(100).round().tolist()]
    assert len(done) > 12
    assert all(steps.count(number) == number % 3 + 1 for number in done)


def test_a_row_keeps_its_sample_until_it_is_done():
    training = run(steps=3)
    training.fit()
    assert training.model.seen == [[0, 1, 2, 3], [4, 1, 2, 5], [4, 6, 2, 5]]


def test_micro_batches_carry_their_own_rows():
    whole, cut = run(batch_size=4), run(batch_size=2, accumulation=2)
    whole.fit()
    cut.fit()
    assert whole.model.fresh == cut.model.fresh
    assert torch.equal(whole.carry["age"], cut.carry["age"])
    torch.testing.assert_close(whole.model.linear.weight, cut.model.linear.weight)


def test_a_resume_goes_on_with_the_samples_in_work_and_the_next_one():
    whole, first, second = run(steps=9), run(steps=4), run(steps=9)
    whole.fit()
    first.fit()
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    second.fit()
    assert first.model.seen + second.model.seen == whole.model.seen
    assert torch.equal(whole.model.linear.weight, second.model.linear.weight)


def test_a_batch_of_another_size_starts_with_new_samples_where_the_old_one_ended():
    first, second = run(steps=4), run(steps=5, batch_size=6)
    first.fit()
    second.load_state_dict(first.state_dict())
    second.fit()
    assert second.model.seen == [list(range(first.feed.position, first.feed.position + 6))]


def test_samples_that_are_carried_on_train_in_one_process():
    world = type("Two", (World,), {"__init__": lambda self: None, "size": 2, "rank": 0})()
    with pytest.raises(ValueError, match="in one process"):
        run(world=world)


def test_after_going_back_to_a_batch_of_another_size_no_sample_is_left_out():
    """Then there is no carry, but samples that were read ahead."""
    feed = Feed(numbered(4), 4)
    seen = [feed.next(None), feed.next({"halted": torch.tensor([True, False, False, True])}), feed.next(None)]
    numbers = [batch["tokens"][:, 0].mul(100).round().long().tolist() for batch in seen]
    assert numbers == [[0, 1, 2, 3], [4, 1, 2, 5], [6, 7, 8, 9]]
    assert feed.position == 10


def test_metrics_of_rows_are_means_over_those_that_have_one_however_the_batch_is_cut():
    rows = {1: [], 2: []}
    for accumulation, kept in rows.items():

        class Keep(Callback):
            def step(self, trainer, row, kept=kept):
                kept.append({name: row.get(name) for name in ("done_share", "done_age")})

        run(batch_size=4 // accumulation, accumulation=accumulation, steps=6, callbacks=[Keep()]).fit()
    assert rows[1] == rows[2]
    assert rows[1][:2] == [{"done_share": 0.5, "done_age": 1.0}, {"done_share": 0.25, "done_age": 2.0}]
