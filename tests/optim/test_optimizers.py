"""What all optimizers promise: one group for each parameter, learning, exact resume, fp32 masters, fresh codes."""

import copy

import pytest
import torch
from every_optimizer import EVERY, build, language_model, train
from torch import Tensor, nn

from eco import plugins
from eco.models.layers.bitlinear import BitLinear
from eco.optim import adamw, muon
from eco.optim.contract import load_state
from eco.training import tree

every = pytest.mark.parametrize("name", EVERY)


def test_every_file_of_the_room_is_tested_here() -> None:
    assert {module.__name__.rpartition(".")[2] for module, _ in EVERY.values()} == set(plugins.names("optim"))


@every
def test_every_parameter_is_in_one_group_and_only_matrices_decay(name: str) -> None:
    model = language_model()
    model.norm.bias.requires_grad_(False)
    config = EVERY[name][1]
    groups = build(name, model).param_groups
    members = [p for group in groups for p in group["params"]]
    assert len(members) == len(set(members))
    assert set(members) == {p for p in model.parameters() if p.requires_grad}
    for group in groups:
        assert group["initial_lr"] == config.lr
        for parameter in group["params"]:
            assert (group["weight_decay"] == config.weight_decay) == (parameter.ndim >= 2)


@pytest.fixture(scope="module")
def best_of_sgd() -> float:
    losses = []
    for lr, momentum in [(0.1, 0.0), (0.3, 0.0), (1.0, 0.0), (0.1, 0.9)]:
        model = language_model()
        losses.append(train(model, torch.optim.SGD(model.parameters(), lr, momentum=momentum), 80))
    assert losses[1] < losses[0] and losses[1] < losses[2], "the best rate lies within those that were tried"
    return min(losses)


# Without the samples of its callback Sophia is sign descent; its own tests have them.
@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("sophia", "adamw_bf16", "teon_half")])
def test_beats_sgd_on_a_small_language_model(name: str, best_of_sgd: float) -> None:
    model = language_model()
    assert train(model, build(name, model), 80) < best_of_sgd - 0.04


@every
def test_a_restored_optimizer_goes_on_bit_by_bit(name: str) -> None:
    model = language_model()
    optimizer = build(name, model)
    train(model, optimizer, 3)
    other = copy.deepcopy(model)
    restored = build(name, other)
    structure, tensors = tree.split(optimizer.state_dict())  # as a checkpoint does
    load_state(restored, tree.join(structure, {key: tensor.clone() for key, tensor in tensors.items()}))
    train(model, optimizer, 3, 3)
    train(other, restored, 3, 3)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    fresh = copy.deepcopy(other)
    train(model, optimizer, 1, 6)
    train(fresh, build(name, fresh), 1, 6)
    inner = model.blocks[0].mlp.down.weight, fresh.blocks[0].mlp.down.weight
    assert not torch.equal(*inner), "the state made no difference"


class Bilinear(nn.Module):
    """Its gradients are the same wherever its weights are: 8 vectors meet 8 others."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.layer = nn.Linear(24, 32)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(size * torch.randn(parameter.shape, generator=generator).sign())
        self.inputs, self.outputs = (torch.randn(8, width, generator=generator) for width in (24, 32))

    def forward(self) -> Tensor:
        return (self.layer(self.inputs) * self.outputs).sum()


@every
def test_a_hundred_tiny_steps_under_bf16_add_up_in_every_weight(name: str) -> None:
    """Steps of 1e-4 of a weight, a fortieth of what bf16 could add to it. What they add up to is what the same steps
    make of weights near zero, where nothing is lost."""
    moved = []
    for size in (1.0, 1e-3):
        model = Bilinear(size)
        before = copy.deepcopy(model)
        rate = 1e-4 / (0.2 if "uon" in name or "teon" in name else 1.0)
        optimizer = build(name, model, lr=rate, weight_decay=0.0, **({"trust_radius": 100.0} if name == "c3o" else {}))
        for _ in range(100):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = model()
            loss.backward()
            optimizer.step()
        moved.append([(p - q).detach() for p, q in zip(model.parameters(), before.parameters(), strict=True)])
    for one, small in zip(*moved, strict=True):
        rms = float(small.square().mean().sqrt())
        assert 0.005 < rms < 0.06, "a hundred times 1e-4, or of biases of AdamW's step at its own rate"
        torch.testing.assert_close(one, small, rtol=0.01, atol=0.002 * rms)


@every
def test_ternary_codes_are_those_of_the_weights_after_a_step(name: str) -> None:
    """In training and in evaluation alike, without anybody telling the layer that its weights were written to."""
    model = nn.Sequential(BitLinear(32, (16, 16)), nn.Tanh(), nn.Linear(32, 4))
    layer: BitLinear = model[0]  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(3)
    x, target = torch.randn(64, 32, generator=generator), torch.randint(4, (64,), generator=generator)
    optimizer = build(name, model, lr=0.05)
    first = layer(x).detach()
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()
    fresh = BitLinear(32, (16, 16))
    fresh.load_state_dict(layer.state_dict())
    in_training = layer(x).detach()
    assert torch.equal(in_training, fresh(x).detach())
    assert not torch.equal(in_training, first)
    layer.check_fresh()
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), in_training, rtol=1e-5, atol=1e-5)


def test_adamw_is_torchs() -> None:
    model, other = Bilinear(1.0), Bilinear(1.0)
    ours = adamw.build(adamw.Config(lr=0.01, weight_decay=0.0), model)
    theirs = torch.optim.AdamW(other.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(5):
        for one, two in zip(model.parameters(), other.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(step))
            two.grad = one.grad.clone()
        ours.step()
        theirs.step()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_muons_adamw_part_is_torchs() -> None:
    model, other = language_model(), language_model()
    for network in (model, other):
        for module in network.blocks.modules():
            if isinstance(module, nn.Linear):
                module.weight.requires_grad_(False)
    train(model, muon.build(muon.Config(lr=0.01), model), 5)
    train(other, adamw.build(adamw.Config(lr=0.01), other), 5)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "adam_atan2"])
def test_without_a_rule_for_puzzle_tables_one_refuses_them(name: str) -> None:
    model = nn.Linear(4, 4)
    model.table = nn.Parameter(torch.zeros(5, 4), requires_grad=False)
    model.table.is_table = True  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"puzzle table.*adam_atan2.*model\.puzzle_width 0"):
        build(name, model)
