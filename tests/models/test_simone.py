"""The governed decoder as a whole: what it is without its parts, and that each part is there alone and learns."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from eco import plugins
from eco.models import decoder, simone
from eco.models.contract import IGNORE, Batch, LanguageModelConfig, StepOutput, build_model
from eco.models.governance.attention import GovernedAttention
from eco.models.layers.moe import MoE

SIZES = {"vocab_size": 61, "context": 64, "width": 32, "layers": 2, "heads": 4}
LOSSES = {
    "concept_weight": 0.1, "continuation_weight": 0.05, "reference_weight": 0.1, "genre_weight": 0.05,
    "recall_weight": 0.1, "policy_weight": 1e-3, "energy_weight": 1e-4, "memory_weight": 1e-3,
}  # fmt: skip
PARTS = {
    "policy": {"policy_rank": 3},
    "forgetting": {"forgetting": True},
    "memory_slots": {"memory_slots": 3, "segment": 32},
    "control": {"control": True},
    "moe": {"routed_experts": 4},
    "auxiliary": {name: LOSSES[name] for name in LOSSES if name not in ("policy_weight", "memory_weight")},
}
"""Feature -> the settings that switch it on, alone."""

EVERYTHING = {key: value for part in PARTS.values() for key, value in part.items()} | LOSSES


def build(config: LanguageModelConfig, seed: int = 0) -> torch.nn.Module:
    module = simone if isinstance(config, simone.Config) else decoder
    return build_model(module.build, config, seed, torch.device("cpu"))


@pytest.fixture
def batch() -> Batch:
    """Tokens with every label that a loss can ask for."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(61, (3, 65), generator=generator)
    return {
        "tokens": tokens[:, :-1], "targets": tokens[:, 1:],
        "control": torch.rand(3, 64, 5, generator=generator),
        "concepts": (torch.rand(3, 4, 49, generator=generator) < 0.2).float(),
        "prefix": torch.tensor([10, 0, 64]), "document": torch.tensor([3, IGNORE, 65]),
        "place": torch.tensor([0, IGNORE, 3]), "category": torch.tensor([7, IGNORE, 0]),
        "recall": torch.rand(3, 64, generator=generator) < 0.3,
    }  # fmt: skip


def train(model: torch.nn.Module, batch: Batch, steps: int) -> list[float]:
    """Losses of the language model while plain SGD follows the sum of all."""
    model.train()
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        output = model.training_step(batch)
        weights = model.loss_weights
        sum(weights.get(name, 1.0) * loss for name, loss in output.losses.items()).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.5 * parameter.grad
                    parameter.grad = None
        model.after_step()
        losses.append(output.losses["lm"].item())
    return losses


def test_without_its_parts_it_is_the_decoder_to_the_bit(batch: Batch) -> None:
    plain, other = build(simone.Config(**SIZES)), build(decoder.Config(**SIZES))
    assert [*plain.state_dict()] == [*other.state_dict()]
    assert train(plain, batch, 3) == train(other, batch, 3)
    assert all(map(torch.equal, plain.state_dict().values(), other.state_dict().values()))


def test_auxiliary_weights_of_zero_are_plain_training(batch: Batch) -> None:
    zero = build(simone.Config(**SIZES, **dict.fromkeys(LOSSES, 0.0)))
    assert train(zero, batch, 3) == train(build(simone.Config(**SIZES)), batch, 3)
    assert not zero.labels and "auxiliary" not in zero.features


@pytest.mark.parametrize("name", PARTS)
def test_each_part_stands_alone_and_learns(name: str, batch: Batch) -> None:
    model = build(simone.Config(**SIZES, **PARTS[name]))
    assert model.features == (name,)
    plain = {key for key, _ in build(simone.Config(**SIZES)).named_parameters()}
    own = {key for key, _ in model.named_parameters()} - plain
    assert own, f"{name} has no parameters of its own"
    train(model, batch, 1)  # what starts at zero passes no gradient on
    model.train()
    output = model.training_step(batch)
    sum(model.loss_weights.get(key, 1.0) * loss for key, loss in output.losses.items()).backward()
    gradients = {key: p.grad for key, p in model.named_parameters()}
    assert [key for key in own if gradients[key] is None or not gradients[key].any()] == []
    assert model.evidence()[name] > 0


def test_everything_together_reaches_every_parameter(batch: Batch) -> None:
    model = build(simone.Config(**SIZES, **EVERYTHING))
    assert set(model.features) == {*PARTS}
    train(model, batch, 1)
    model.train()
    output = model.training_step(batch)
    assert {*model.objectives.loss_weights} <= {*output.losses}
    sum(model.loss_weights.get(key, 1.0) * loss for key, loss in output.losses.items()).backward()
    missing = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


@pytest.mark.parametrize("name", PARTS)
def test_the_future_changes_nothing(name: str, batch: Batch) -> None:
    model = build(simone.Config(**SIZES, **PARTS[name]))
    train(model, batch, 2)
    model.eval()
    tokens, control = batch["tokens"], batch["control"] if name == "control" else None
    later = tokens.clone()
    later[:, 40:] = (later[:, 40:] + 7) % 61
    with torch.no_grad():
        before, after = model(tokens, control=control), model(later, control=control)
    assert torch.equal(before[:, :40], after[:, :40]) and not torch.equal(before[:, 40:], after[:, 40:])


@pytest.mark.parametrize("name", [*PARTS, "everything"])
def test_cached_is_whole(name: str, batch: Batch) -> None:
    model = build(simone.Config(**SIZES, **(EVERYTHING if name == "everything" else PARTS[name])))
    train(model, batch, 2)
    model.eval()
    tokens: Tensor = batch["tokens"]
    with torch.no_grad():
        whole, cache = model(tokens), model.new_cache(3, 64)
        parts = [model(tokens[:, a:b], cache) for a, b in ((0, 20), (20, 21), (21, 50), (50, 64))]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-4)


def watched(model: torch.nn.Module, kind: type, batch: Batch) -> tuple[list[Any], StepOutput]:
    """What every module of a kind put out beside its result, pass by pass; and the step's output."""
    seen: list[Any] = []
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output: seen.append(output[1]))
        for module in model.modules()
        if isinstance(module, kind)
    ]
    output = model.train().training_step(batch)
    for handle in handles:
        handle.remove()
    return seen, output


def test_policy_and_experts_answer_for_all_blocks_and_segments(batch: Batch) -> None:
    model = build(simone.Config(**SIZES, **EVERYTHING))
    magnitudes, output = watched(model, GovernedAttention, batch)
    assert len({float(m.detach()) for m in magnitudes}) == 4, "two blocks, two segments"
    torch.testing.assert_close(output.losses["policy"], torch.stack(magnitudes).mean())
    routings, output = watched(model, MoE, batch)
    for name in ("moe_balance", "moe_z"):
        torch.testing.assert_close(output.losses[name], torch.stack([r.losses[name] for r in routings]).mean())


def test_the_evidence_of_auxiliary_losses_is_what_they_ask_for(batch: Batch) -> None:
    model = build(simone.Config(**SIZES, **PARTS["auxiliary"])).train()
    losses, weights = model.training_step(batch).losses, model.objectives.loss_weights
    asked = sum(weights[name] * losses[name].item() for name in losses if name != "lm")
    assert model.evidence()["auxiliary"] == pytest.approx(asked)
    plain = {name: batch[name] for name in ("tokens", "targets")}
    assert model.training_step(plain).losses.keys() == {"lm", "continuation", "energy"}
    assert 0 < model.evidence()["auxiliary"] < asked


def test_experts_are_balanced_by_the_load_of_all_segments_and_processes(batch: Batch) -> None:
    model = build(simone.Config(**SIZES, **EVERYTHING))
    model.train().training_step(batch)
    model.forget_step()  # memory ran out: the step begins anew
    routings, _ = watched(model, MoE, batch)
    loads = torch.stack([routing.load for routing in routings]).view(2, 2, 4).sum(0)  # segments, blocks, experts
    others = torch.arange(8.0).view(2, 4) * 100

    def average(tensors: Iterable[Tensor]) -> None:
        load, _ = tensors
        assert torch.equal(load, loads)
        load.add_(others).div_(2)

    model.after_step(average)
    for block, load in zip(model.blocks, loads + others, strict=True):
        expected = (load.mean() - load).sign() * block.mlp.balance_rate
        assert torch.equal(block.mlp.router.bias, expected)


def test_evaluation_asks_for_nothing_of_the_parts_own(batch: Batch) -> None:
    output = build(simone.Config(**SIZES, **EVERYTHING)).eval().training_step(batch)
    assert output.losses.keys() == {"lm", "concepts", "continuation", "reference", "genre", "recall", "energy"}


@pytest.mark.parametrize("name", ["adamw", "muon", "c3o", "teon"])
def test_optimizers_take_all_parts(name: str, batch: Batch) -> None:
    model = build(simone.Config(**SIZES, **EVERYTHING)).train()
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    plugin = plugins.find("optim", name)
    optimizer = plugin.build(plugin.Config(lr=0.01), model)
    for _ in range(2):
        sum(model.training_step(batch).losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert [key for key, p in model.named_parameters() if torch.equal(p, before[key])] == []


def test_metadata_are_heard_once_trained(batch: Batch) -> None:
    model = build(simone.Config(**SIZES, control=True))
    with torch.no_grad():
        tokens, control = batch["tokens"], batch["control"]
        assert torch.equal(model(tokens), model(tokens, control=control))  # FiLM starts as the identity
        train_with_grad = torch.enable_grad()
        with train_with_grad:
            train(model, batch, 3)
        model.eval()
        assert not torch.equal(model(tokens), model(tokens, control=control))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory_slots": 4}, "memory_slots is 4, but segment is 0"),
        ({"segment": 48}, "segment 48 does not divide the context of 64"),
        ({"memory_weight": 0.1}, "memory_slots is 0"),
        ({"policy_weight": 0.1}, "policy_rank is 0"),
        ({"routed_experts": 2, "top_k": 2}, "top_k 2 must be below routed_experts 2"),
        ({"heads": 5}, "cannot be cut into 5 heads"),
    ],
)
def test_what_cannot_be_is_said(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simone.Config(**{**SIZES, **settings})


def test_flops_leave_out_what_a_token_does_not_meet() -> None:
    plain = build(simone.Config(**SIZES)).flops_per_token()
    halved = build(simone.Config(**SIZES, segment=32)).flops_per_token()
    assert plain - halved == 12 * 2 * 32 * 32
    experts = build(simone.Config(**SIZES, routed_experts=4)).flops_per_token()
    routers = 6 * 2 * 4 * 32
    assert experts == pytest.approx(plain + routers, rel=0.01)  # half of the units each, two for a token
