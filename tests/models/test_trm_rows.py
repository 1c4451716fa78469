"""What each row of a batch keeps from step to step, when it ends, and that rows know nothing of each other."""

import pytest
import torch
from torch import Tensor
from trm_cases import VARIANTS, VOCABULARY, batch_of, carry_of, config_of, cut, fresh, gradients, made, total

from eco.models import trm
from eco.models.contract import IGNORE, Carry

every_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(autouse=True)
def seeded():
    """Exploration draws from torch's default generator, as the trainer seeds it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@every_variant
def test_fresh_rows_start_over_and_the_others_go_on(variant: str) -> None:
    model, batch = made(config_of(**VARIANTS[variant])), batch_of(3)
    first = carry_of(model.training_step(batch))
    second = carry_of(model.training_step({**batch, **fresh(False, True, False)}, first))
    third = carry_of(model.training_step({**batch, **fresh(False, False, True)}, second))
    assert third["steps"].tolist() == [3, 2, 1]
    torch.testing.assert_close(second["answer"][1], first["answer"][1])
    torch.testing.assert_close(third["answer"][2], first["answer"][2])
    assert ((second["answer"] - first["answer"]).abs().amax((1, 2)) > 1e-3).tolist() == [True, False, True]
    assert all(not tensor.requires_grad and len(tensor) == 3 for tensor in third.values())


@every_variant
def test_a_row_knows_nothing_of_the_others_nor_of_its_place(variant: str) -> None:
    model, batch = made(config_of(**VARIANTS[variant])), batch_of(4)
    order = torch.tensor([2, 0, 3, 1])
    straight, permuted = (carry_of(model.training_step(b)) for b in (batch, cut(batch, order)))
    torch.testing.assert_close(straight["answer"][order], permuted["answer"], rtol=1e-4, atol=1e-5)
    other = {**batch, "tokens": batch["tokens"].clone(), "puzzle": batch["puzzle"].clone()}
    other["tokens"][1:] = (other["tokens"][1:] + 1) % VOCABULARY
    changed = carry_of(model.training_step(other))
    torch.testing.assert_close(straight["answer"][0], changed["answer"][0], rtol=1e-4, atol=1e-5)
    assert ((straight["answer"] - changed["answer"]).abs().amax((1, 2)) > 1e-2).tolist() == [False, True, True, True]


@every_variant
def test_micro_batches_are_the_whole_batch(variant: str) -> None:
    """Losses, gradients, state and decisions, exploration among them; also with a row that is padding."""
    config = config_of(**{**VARIANTS[variant], "exploration": 0.5, "max_steps": 3})
    model, batch = made(config), batch_of(6)
    batch["targets"][4] = IGNORE
    with torch.no_grad():
        model.halt_head.bias.copy_(torch.tensor([3.0, 0.0])[: len(model.halt_head.bias)])

    def run(parts: list[slice]) -> tuple[list[Tensor], Carry, dict[str, Tensor]]:
        torch.manual_seed(3)
        model.zero_grad()
        carry: Carry | None = None
        losses = []
        rows = {**batch, "fresh": torch.tensor([False, True, False, False, True, False])}
        for _ in range(2):
            outputs = [model.training_step(cut(rows, part), cut(carry, part) if carry else None) for part in parts]
            shares = [(part.stop - part.start) / 6 for part in parts]
            loss = sum((total(o) * share for o, share in zip(outputs, shares, strict=True)), torch.zeros(()))
            loss.backward()
            losses.append(loss.detach())
            carry = {name: torch.cat([carry_of(o)[name] for o in outputs]) for name in carry_of(outputs[0])}
        assert carry is not None
        return losses, carry, gradients(model)

    whole, halves = run([slice(0, 6)]), run([slice(0, 2), slice(2, 6)])
    torch.testing.assert_close(whole, halves, rtol=2e-3, atol=1e-4)
    assert 0 < whole[1]["halted"].sum() < 6


def test_a_row_of_padding_has_no_loss_and_no_gradient() -> None:
    model, batch = made(config_of(halt="continue")), batch_of(2)
    padding = {**batch, "targets": torch.full_like(batch["targets"], IGNORE)}
    output = model.training_step(padding)
    total(output).backward()
    assert [float(loss.detach()) for loss in output.losses.values()] == [0, 0, 0]
    assert all((gradient == 0).all() for gradient in gradients(model).values())
    alone = model.training_step(cut(batch, slice(0, 1))).losses
    beside = model.training_step({**batch, "targets": torch.cat((batch["targets"][:1], padding["targets"][1:]))}).losses
    for name, loss in alone.items():
        torch.testing.assert_close(beside[name] * 2, loss)


def test_the_state_survives_a_round_trip() -> None:
    model, other = made(config_of(stacks="separate"), seed=0), made(config_of(stacks="separate"), seed=5)
    state = model.state_dict()
    assert {"answer_start", "scratch_start", "puzzle_table.weight"} < state.keys()
    other.load_state_dict(state)
    batch = batch_of(2)
    first, second = model.training_step(batch), other.training_step(batch)
    assert torch.equal(total(first), total(second))
    assert torch.equal(carry_of(first)["scratch"], carry_of(second)["scratch"])


def decided(config: trm.Config, halting: Tensor, steps: Tensor) -> Tensor:
    return made(config)._halted(halting, steps)


def test_a_row_ends_when_it_is_sure_or_out_of_steps() -> None:
    halting, steps = torch.tensor([[1.0], [-1.0], [-1.0], [0.0]]), torch.tensor([1, 3, 4, 2])
    assert decided(config_of(exploration=0.0), halting, steps).tolist() == [True, False, True, False]
    pairs = torch.tensor([[1.0, 2.0], [-2.0, -3.0], [-3.0, -2.0], [0.5, 0.5]])
    assert decided(config_of(exploration=0.0, halt="continue"), pairs, steps).tolist() == [False, True, True, False]


@pytest.mark.parametrize("max_steps", [1, 2, 5])
def test_who_explores_waits_for_a_step_between_two_and_the_last(max_steps: int) -> None:
    rows = 40_000
    for step in range(1, max_steps + 1):
        halted = decided(
            config_of(exploration=0.25, max_steps=max_steps), torch.ones(rows, 1), torch.full((rows,), step)
        )
        ready = 0.75 + 0.25 * (step - 1) / max(max_steps - 1, 1) if step < max_steps else 1.0
        assert halted.float().mean() == pytest.approx(ready, abs=0.01)
        assert step < max_steps or halted.all()


def test_metrics_are_over_the_rows_that_end() -> None:
    model, batch = made(config_of(max_steps=2)), batch_of(6)
    with torch.no_grad():
        model.halt_head.weight.fill_(0.0)
        model.halt_head.bias.fill_(-1.0)
        question = model.encode(batch["tokens"], batch["puzzle"])
        answers = model.read(model.improve(question, model.start(question)))[0].argmax(-1)
    asked = batch["targets"] != IGNORE
    batch["targets"][0] = torch.where(asked[0], answers[0], IGNORE)
    batch["targets"][3, :6] = torch.where(asked[3, :6], answers[3, :6], IGNORE)
    batch["targets"][5] = IGNORE
    output = model.training_step(batch)
    assert output.metrics.pop("halted_share").eq(0).all()
    assert all(rows.shape == (6,) and rows.isnan().all() for rows in output.metrics.values())
    going_on = carry_of(output)
    going_on["steps"] = torch.tensor([1, 0, 1, 1, 0, 1])
    start = model.start(model.encode(batch["tokens"], batch["puzzle"]))
    going_on["answer"], going_on["scratch"] = start
    metrics = model.training_step({**batch, "fresh": torch.zeros(6, dtype=torch.bool)}, going_on).metrics
    right = [float((answers[row] == batch["targets"][row])[asked[row]].float().mean()) for row in (0, 2, 3)]
    assert right[0] == 1 and right[1] < 1 and 0 < right[2] < 1
    expected = {"halted_share": 4 / 6, "exact_accuracy": 1 / 3, "cell_accuracy": sum(right) / 3}
    expected |= {"halt_accuracy": 2 / 3, "halt_steps": 2.0}
    assert {name: float(rows.nanmean()) for name, rows in metrics.items()} == pytest.approx(expected)
