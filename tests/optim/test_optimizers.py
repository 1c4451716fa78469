"""All optimizers: who owns which parameter, what a step does, and that a restored one goes on bit by bit."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eco import plugins
from eco.optim import adam_atan2, adamw, muon

OPTIMIZERS: list[tuple[Any, Any]] = [(adamw, adamw.Config()), (muon, muon.Config()), (adam_atan2, adam_atan2.Config())]


class Tiny(nn.Module):
    """Embedding, a fused projection, a norm, an untied head; tied where asked."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.qkv = nn.Linear(8, 24)
        self.norm = nn.LayerNorm(24)
        self.down = nn.Linear(24, 8, bias=False)
        self.gate = nn.Linear(8, 1)
        self.head = nn.Linear(8, 20, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x = x + self.down(self.norm(self.qkv(x)).tanh())
        return self.head(x * self.gate(x).sigmoid())


def steps(model: Tiny, optimizer: torch.optim.Optimizer, count: int, start: int = 0) -> float:
    """`count` steps on a fixed task (predict the token after each); the last loss."""
    loss = torch.tensor(0.0)
    for step in range(start, start + count):
        tokens = torch.randint(20, (16,), generator=torch.Generator().manual_seed(step % 4))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(tokens), (tokens + 1) % 20)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_the_room_has_them() -> None:
    assert {"adamw", "muon", "adam_atan2"} <= set(plugins.names("optim"))


@pytest.mark.parametrize(("module", "config"), OPTIMIZERS)
def test_every_parameter_is_in_one_group_and_only_matrices_decay(module: Any, config: Any) -> None:
    model = Tiny()
    model.norm.bias.requires_grad_(False)
    groups = module.build(config, model).param_groups
    members = [p for group in groups for p in group["params"]]
    assert len(members) == len(set(members))
    assert set(members) == {p for p in model.parameters() if p.requires_grad}
    for group in groups:
        assert group["initial_lr"] == config.lr
        for parameter in group["params"]:
            assert (group["weight_decay"] == config.weight_decay) == (parameter.ndim >= 2)


@pytest.mark.parametrize("tied", [False, True])
def test_muon_takes_the_hidden_matrices_by_their_role(tied: bool) -> None:
    model = Tiny(tied)
    assert set(muon.hidden_matrices(model)) == {model.qkv.weight, model.down.weight}
    groups = [group for group in muon.build(muon.Config(), model).param_groups if group["orthogonal"]]
    assert {p for group in groups for p in group["params"]} == {model.qkv.weight, model.down.weight}


@pytest.mark.parametrize(("module", "config"), OPTIMIZERS)
def test_learns(module: Any, config: Any) -> None:
    model = Tiny()
    optimizer = module.build(config.model_copy(update={"lr": 0.02}), model)
    before = steps(model, optimizer, 1)
    assert steps(model, optimizer, 80, 1) < before / 4


@pytest.mark.parametrize(("module", "config"), OPTIMIZERS)
def test_a_restored_optimizer_goes_on_bit_by_bit(module: Any, config: Any) -> None:
    model = Tiny()
    optimizer = module.build(config, model)
    steps(model, optimizer, 3)
    other = copy.deepcopy(model)
    restored = module.build(config, other)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(model, optimizer, 3, 3)
    steps(other, restored, 3, 3)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    fresh = copy.deepcopy(other)
    steps(model, optimizer, 1, 6)
    steps(fresh, module.build(config, fresh), 1, 6)
    assert not torch.equal(model.down.weight, fresh.down.weight), "the state made no difference"


def test_adamw_is_torchs() -> None:
    model, other = Tiny(), Tiny()
    ours = adamw.build(adamw.Config(lr=0.01, weight_decay=0.0), model)
    theirs = torch.optim.AdamW(other.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
    steps(model, ours, 5)
    steps(other, theirs, 5)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_muons_adamw_part_is_torchs() -> None:
    model, other = Tiny(), Tiny()
    for network in (model, other):
        network.qkv.weight.requires_grad_(False)
        network.down.weight.requires_grad_(False)
    steps(model, muon.build(muon.Config(lr=0.01), model), 5)
    steps(other, adamw.build(adamw.Config(lr=0.01), other), 5)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_muon_step_has_the_size_of_adamws_and_the_direction_of_the_orthogonal_factor() -> None:
    layer = nn.Linear(64, 32, bias=False)
    gradient = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
    before = layer.weight.detach().clone()
    layer.weight.grad = gradient.clone()
    muon.build(muon.Config(lr=0.5, weight_decay=0.1), layer).step()
    u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
    update = before * (1 - 0.5 * 0.1) - layer.weight.detach()
    assert torch.cosine_similarity(update.flatten(), (u @ vh).flatten(), dim=0) > 0.97
    # the root mean square of an orthogonal matrix of 32 x 64 is 1/8; 0.2 x sqrt(64) makes it the 0.2 of AdamW's steps
    assert float(update.square().mean().sqrt()) == pytest.approx(0.5 * 0.2, rel=0.15)


def test_stacked_projections_are_made_orthogonal_one_by_one() -> None:
    layer = nn.Linear(16, 48, bias=False)
    before = layer.weight.detach().clone()
    gradient = torch.randn(48, 16, generator=torch.Generator().manual_seed(2))
    gradient[16:32] *= 1e-4  # one projection with tiny gradients still makes a whole step when it stands by itself
    layer.weight.grad = gradient
    layer.row_blocks = (16, 16, 16)  # type: ignore[assignment]
    muon.build(muon.Config(weight_decay=0.0), layer).step()
    moved = [float(part.norm()) for part in (layer.weight.detach() - before).split(16)]
    assert moved[1] == pytest.approx(moved[0], rel=0.3)


def test_wrong_row_blocks_are_refused_with_the_numbers() -> None:
    layer = nn.Linear(16, 48)
    layer.row_blocks = (16, 16)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="48 rows"):
        muon.hidden_matrices(layer)


def test_parameters_without_gradient_stay() -> None:
    model = Tiny()
    optimizer = muon.build(muon.Config(), model)
    model.down.weight.grad = torch.ones_like(model.down.weight)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"down.weight"}
