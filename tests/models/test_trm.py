"""Sizes, arithmetic, initial weights and settings of recursive models, and that they learn."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from trm_cases import (
    IDENTIFIERS,
    VARIANTS,
    VOCABULARY,
    batch_of,
    carry_of,
    config_of,
    gradients,
    made,
    total,
)

from eco.models import trm
from eco.models.contract import Batch, build_model
from eco.models.layers.truncated_normal import draw_truncated_normal

every_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(autouse=True)
def seeded():
    """Exploration draws from torch's default generator, as the trainer seeds it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(
    ("changes", "millions"),
    [
        ({"length": 81}, 6.816),
        ({"length": 81, "mixer": "mlp", "position": "none"}, 5.017),
        ({"length": 900, "mixer": "mlp", "position": "none"}, 18.79),
        ({"length": 81, "stacks": "separate", "layers": 4}, 27.26),
    ],
)
def test_the_blocks_have_the_published_numbers_of_parameters(changes: dict[str, object], millions: float) -> None:
    with torch.device("meta"):
        table = trm.build(trm.Config(**{"vocab_size": 11, "identifiers": 1, **changes})).parameter_table()
    blocks = sum(count for name, count in table.items() if "stack" in name)
    assert blocks / 1e6 == pytest.approx(millions, abs=0.005)
    assert table["puzzle_table"] == 512 and table["embedding"] == 11 * 512


@every_variant
def test_the_arithmetic_is_what_torch_counts(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eco.kernels.attention.cpu.able", lambda *_: False)
    model, batch = made(config_of(**VARIANTS[variant])), batch_of(2)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        total(model.training_step(batch)).backward()
    rows, halting = len(batch["tokens"]), model.halt_head.weight.numel()
    halting_flops = rows * halting * (8 if model.config.halt == "continue" else 6)
    assert counter.get_total_flops() == rows * model.flops_per_example() + halting_flops
    assert model.flops_per_token() * model.config.length == pytest.approx(model.flops_per_example())


@every_variant
def test_every_weight_is_drawn(variant: str) -> None:
    model = made(config_of(**VARIANTS[variant]))
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data.fill_(math.nan)
    model.init_weights(torch.Generator().manual_seed(0))
    assert all(tensor.isfinite().all() for tensor in [*model.parameters(), *model.buffers()])


def test_weights_start_with_unit_gain_and_a_model_that_never_halts() -> None:
    model = build_model(trm.build, config_of(width=256), 0, torch.device("cpu"))
    linear = model.stack.blocks[0].mlp.gate_up.weight.detach()
    assert linear.std() * math.sqrt(256) == pytest.approx(1, abs=0.01)
    assert linear.abs().max() * math.sqrt(256) < 2 / 0.8796 + 1e-3
    question = model.encode(torch.arange(7).repeat(1, 2)[:, :12], torch.tensor([2])).detach()
    assert question[:, 3:].std() == pytest.approx(1, abs=0.1) and (question[:, :3] == 0).all()
    logits, halting = model.read(model.start(question))
    assert logits.shape == (1, 12, VOCABULARY) and halting.tolist() == [-5.0]
    assert not torch.equal(model.answer_start, model.scratch_start)


def test_the_standard_deviation_is_that_after_the_cut() -> None:
    weight = torch.empty(400_000)
    draw_truncated_normal(weight, 0.5, torch.Generator().manual_seed(1))
    assert weight.std() == pytest.approx(0.5, abs=2e-3) and weight.mean() == pytest.approx(0, abs=3e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixer": "mlp"}, "set position to none or learned"),
        ({"heads": 5}, "cannot be cut into 5 heads"),
        ({"width": 36, "heads": 4}, "even head size"),
        ({"puzzle_width": 97}, "take at most 96"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config_of(**changes)


def test_sizes_that_the_puzzles_have_not_set_are_named() -> None:
    with pytest.raises(ValueError, match="length, identifiers of the model is 0"):
        trm.build(config_of(length=0, identifiers=0))
    trm.build(config_of(identifiers=0, puzzle_width=0))


SWITCHES: dict[str, object] = {
    "width": 64, "layers": 1, "heads": 2, "expansion": 16.0, "mixer": "mlp", "position": "learned", "prefix": 4,
    "puzzle_width": 5, "cycles": 2, "inner_cycles": 1, "max_steps": 1, "exploration": 1.0, "halt_bias": -1.0,
    "stacks": "separate", "gradient": "last", "halt": "continue", "latents": 1,
}  # fmt: skip


def fingerprint(config: trm.Config) -> list[float]:
    """Losses, decisions and gradients of two steps of a model that halts, started as the recipe would start it."""
    torch.manual_seed(1)
    model = build_model(trm.build, config, 0, torch.device("cpu"))
    numbers: list[float] = []
    batch, carry = batch_of(4), None
    for _ in range(2):
        rows: Batch = {**batch, "fresh": carry["halted"]} if carry else batch
        output = model.training_step(rows, carry)
        total(output).backward()
        carry = carry_of(output)
        numbers += [float(loss.detach()) for loss in output.losses.values()] + carry["halted"].tolist()
    return [*numbers, *(float(gradient.norm()) for gradient in gradients(model).values())]


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_changes_something(name: str) -> None:
    base: dict[str, object] = {"halt_bias": 2.0 if name == "exploration" else -5.0, "exploration": 0.0}
    base |= {"position": "none"} if name == "mixer" else {}
    assert fingerprint(config_of(**base)) == fingerprint(config_of(**base))
    assert fingerprint(config_of(**base)) != fingerprint(config_of(**{**base, name: SWITCHES[name]}))


def test_every_field_has_a_switch_here() -> None:
    given = {"family", "vocab_size", "length", "identifiers"}
    assert SWITCHES.keys() == trm.Config.model_fields.keys() - given


@pytest.mark.parametrize("position", ["rope", "learned", "none"])
def test_only_a_told_position_tells_equal_cells_apart(position: str) -> None:
    model = made(config_of(position=position, prefix=0)).eval()
    question = model.encode(torch.full((1, 12), 3), torch.zeros(1, dtype=torch.int64))
    with torch.no_grad():
        question = question.clone()
        question[:, 5] += 1
        logits, _ = model.read(model.improve(question, model.start(question)))
    spread = (logits[0, 0] - logits[0, 9]).abs().max()
    assert (spread < 1e-5) == (position == "none")


@pytest.mark.parametrize("variant", ["trm", "mlp", "hrm", "one-latent"])
def test_a_few_puzzles_are_learned_by_heart_and_known_to_be_right(variant: str) -> None:
    changes = {**VARIANTS[variant], "cycles": 2, "max_steps": 4, "halt_bias": -2.0}
    model = build_model(trm.build, config_of(**changes), 0, torch.device("cpu")).train()
    dense = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(dense, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    batch, carry = batch_of(4), None
    seen = 0
    for _ in range(150):
        optimizer.zero_grad()
        output = model.training_step({**batch, "fresh": carry["halted"]} if carry else batch, carry)
        total(output).backward()
        optimizer.step()
        carry = carry_of(output)
        if output.metrics["exact_accuracy"].nanmean() == 1 and output.metrics["halt_steps"].nanmean() == 1:
            seen += 1
            if seen == 3:
                return
    pytest.fail(f"after 150 steps: {output.losses}, {output.metrics}")


def test_identifiers_tell_equal_questions_apart() -> None:
    model = made(config_of())
    tokens = torch.full((IDENTIFIERS, 12), 2)
    question = model.encode(tokens, torch.arange(IDENTIFIERS))
    answers = model.read(model.improve(question, model.start(question)))[0].detach()
    assert all((answers[a] - answers[b]).abs().max() > 1e-3 for a in range(IDENTIFIERS) for b in range(a))
