"""Which calls of a recursive model have a gradient, that it is whole, and that of the puzzle table."""

import pytest
import torch
from torch import Tensor
from trm_cases import VARIANTS, batch_of, config_of, cut, gradients, made, total

from eco.models import trm
from eco.models.contract import Latent

every_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.mark.parametrize(("gradient", "with_gradient"), [("cycle", 3), ("last", 2)])
def test_only_the_last_calls_have_a_gradient(gradient: str, with_gradient: int) -> None:
    model = made(config_of(gradient=gradient))
    calls = []
    model.stack.register_forward_hook(lambda _module, _inputs, y: calls.append(y.requires_grad))
    model.training_step(batch_of(2))
    assert calls == [False] * (9 - with_gradient) + [True] * with_gradient


@every_variant
def test_none_comes_from_the_state_a_step_starts_from(variant: str) -> None:
    model, batch = made(config_of(**VARIANTS[variant])), batch_of(2)
    question = model.encode(batch["tokens"], batch["puzzle"])
    answer, scratch = (z.clone().requires_grad_() for z in model.start(question))
    model.improve(question, Latent(answer, scratch)).answer.sum().backward()
    assert answer.grad is None and scratch.grad is None and model.embedding.weight.grad is not None


def test_a_cast_left_by_the_cycles_without_gradient_takes_nothing_from_the_weights() -> None:
    model, batch = made(config_of()), batch_of(3)
    found = []
    for warm in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            if warm:
                with torch.no_grad():
                    model.training_step(batch)
            output = model.training_step(batch)
        total(output).backward()
        found.append(gradients(model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_gradients_of_a_weight_add_up_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven uses of each weight: what bf16 loses by adding them up is more than what it loses by each product."""
    model, batch = made(config_of(inner_cycles=6)), batch_of(16)

    def gradient() -> Tensor:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = model.training_step(batch)
        total(output).backward()
        return gradients(model)["stack.blocks.1.mlp.down.weight"]

    fine = gradient()
    assert not torch.equal(fine, fine.bfloat16().float())
    monkeypatch.setattr(trm, "_weights_cast_at_each_use", lambda device: torch.autocast(device, torch.bfloat16))
    coarse = gradient()
    assert torch.equal(coarse, coarse.bfloat16().float())


@every_variant
def test_recomputed_activations_change_no_bit(variant: str) -> None:
    model, batch = made(config_of(**VARIANTS[variant])), batch_of(3)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    model.stack.blocks[0].register_forward_pre_hook(count)
    found, counts = [], []
    for model.gradient_checkpointing in (False, True):
        calls = 0
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = model.training_step(batch)
        total(output).backward()
        found.append(gradients(model))
        counts.append(calls)
    assert counts[1] > counts[0]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_the_table_gets_the_gradient_of_its_rows_alone_and_of_all_micro_batches() -> None:
    # One cycle: the difference would see more of them, the gradient sees only the last.
    model, batch = made(config_of(cycles=1)), batch_of(4)
    batch["puzzle"] = torch.tensor([3, 1, 3, 4])
    table = model.puzzle_table
    assert table is not None and not table.weight.requires_grad and table.weight.is_table  # type: ignore[attr-defined]
    for part in (slice(0, 2), slice(2, 4)):
        total(model.training_step(cut(batch, part))).backward()
    gradient = table.weight.grad
    assert gradient is not None and gradient.is_sparse
    gradient = gradient.coalesce()
    assert gradient.indices().tolist() == [[1, 3, 4]]

    # The same from finite differences along one direction of row 3, which two samples share.
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1))
    losses = []
    double = model.double()
    assert double.puzzle_table is not None
    for shift in (1e-5, -1e-5):
        with torch.no_grad():
            double.puzzle_table.weight[3] += shift * direction
            losses.append(sum(float(total(double.training_step(cut(batch, slice(i, i + 2))))) for i in (0, 2)))
            double.puzzle_table.weight[3] -= shift * direction
    assert gradient.values()[1] @ direction == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-3)


def test_without_gradient_the_table_gets_none_and_the_mark_survives_a_move() -> None:
    model, batch = made(config_of()), batch_of(2)
    with torch.no_grad():
        model.training_step(batch)
    moved = model.to(torch.float64).to_empty(device="meta")
    assert moved.puzzle_table is not None
    assert moved.puzzle_table.weight.grad is None and moved.puzzle_table.weight.is_table  # type: ignore[attr-defined]
