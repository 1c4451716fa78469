"""Who is orthogonalised in the models that there are: expected by role, written out by hand."""

import re

import pytest
import torch
from torch import nn

from eco.models import decoder, gpt2, sigma, trm
from eco.models.contract import Model
from eco.optim import adamuon, muon, normuon, teon
from eco.optim.parts.roles import Role, hidden_matrices, roles

TRM = {"width": 64, "layers": 2, "heads": 4, "vocab_size": 11, "length": 9, "identifiers": 3}
MODELS = {
    "gpt2": (gpt2, gpt2.Config(width=32, layers=2, heads=2, vocab_size=50, tied=False)),
    "gpt2_tied": (gpt2, gpt2.Config(width=32, layers=2, heads=2, vocab_size=50)),
    "decoder": (decoder, decoder.Config(width=64, layers=2, heads=4, kv_heads=2, vocab_size=50, tied=False)),
    "sigma": (
        sigma,
        sigma.Config(
            width=64, layers=6, heads=4, head_size=16, mamba_ratio=2, feed_forward=96, routed_experts=4, vocab_size=50
        ),
    ),
    "sigma_unquantised": (
        sigma,
        sigma.Config(width=64, layers=6, heads=4, routed_experts=0, quant_mode="none", vocab_size=50, tied=True),
    ),
    "trm": (trm, trm.Config(**TRM)),
    "hrm": (trm, trm.Config(**TRM, halt="continue", stacks="separate", puzzle_width=0)),
}
ATTENTION = {"attention.qkv", "attention.output"}
MIXERS = {"mixer.input", "mixer.dynamics", "mixer.up", "mixer.output"}
MATRICES = {
    "gpt2": ATTENTION | {"mlp.up", "mlp.down"},
    "gpt2_tied": ATTENTION | {"mlp.up", "mlp.down"},
    "decoder": ATTENTION | {"mlp.gate_up", "mlp.down"},
    "sigma": MIXERS
    | {f"experts.{part}.{name}" for part in ("experts", "shared") for name in ("gate_up", "down")}
    | {"experts.router.score"},
    "sigma_unquantised": MIXERS | {"experts.gate_up", "experts.down"},
    "trm": {"mixing.qkv", "mixing.output", "mlp.gate_up", "mlp.down"},
    "hrm": {"mixing.qkv", "mixing.output", "mlp.gate_up", "mlp.down"},
}
"""In every block; all are called `weight`."""
HEADS = {"gpt2": {"head"}, "decoder": {"head"}, "sigma": {"head"}, "trm": {"head", "halt_head"}}
HEADS |= {"hrm": HEADS["trm"]}

each = pytest.mark.parametrize("name", MODELS)


def model_of(name: str) -> Model:
    module, config = MODELS[name]
    with torch.device("meta"):
        return module.build(config)


def named(model: nn.Module, role: Role) -> set[str]:
    """Where the parameters of a role are, without the numbers of blocks."""
    found = roles(model)
    names = {name for name, parameter in model.named_parameters() if found[parameter] is role}
    return {re.sub(r"^.*blocks\.\d+\.", "", name).removesuffix(".weight") for name in names}


@each
def test_matrices_and_heads_are_as_expected(name: str) -> None:
    model = model_of(name)
    assert named(model, Role.MATRIX) == MATRICES[name]
    assert named(model, Role.HEAD) == HEADS.get(name, set())
    assert named(model, Role.TABLE) == ({"puzzle_table"} if name == "trm" else set())
    assert named(model, Role.EMBEDDING) == ({"embedding", "position"} if "gpt2" in name else {"embedding"})
    found = roles(model)
    assert found.keys() == set(model.parameters())
    assert set(hidden_matrices(model)) == {p for p in found if found[p] is Role.MATRIX}


def test_mambas_vectors_of_each_head_are_no_matrices() -> None:
    model = model_of("sigma")
    elements = named(model, Role.ELEMENTS)
    assert {"mixer.value_in", "mixer.gate_in", "mixer.out", "mixer.key_bias", "mixer.query_bias"} <= elements
    assert any(p.ndim == 3 for p, role in roles(model).items() if role is Role.ELEMENTS)


@pytest.mark.parametrize("module", [muon, normuon, adamuon, teon])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "trm"])
def test_the_groups_hold_every_parameter_once_and_the_matrices_orthogonal(name: str, module) -> None:  # type: ignore[no-untyped-def]
    model = model_of(name)
    groups = module.build(module.Config(), model).param_groups
    members = [p for group in groups for p in group["params"]]
    assert len(members) == len(set(members)) and set(members) == set(model.parameters())
    assert {p for g in groups if g["orthogonal"] for p in g["params"]} == set(hidden_matrices(model))


def test_experts_and_projections_are_matrices_of_their_own() -> None:
    model = model_of("sigma")
    blocks = {name: hidden_matrices(model).get(p) for name, p in model.named_parameters()}
    assert blocks["blocks.0.experts.experts.down.weight"] == (64,) * 4
    assert blocks["blocks.0.experts.experts.gate_up.weight"] == (64,) * 8
    assert blocks["blocks.0.experts.router.score.weight"] == (4,)
    decoders = model_of("decoder")
    assert hidden_matrices(decoders)[decoders.get_parameter("blocks.1.attention.qkv.weight")] == (64, 32, 32)


def test_a_matrix_with_too_long_a_side_is_adamws() -> None:
    model = model_of("gpt2")  # 32 wide, 128 units; stacked queries, keys and values are 32 x 32 each
    matrices = hidden_matrices(model, 127)
    assert {p.shape for p in matrices} == {(96, 32), (32, 32)}
    assert hidden_matrices(model, 128) == hidden_matrices(model)
    groups = muon.build(muon.Config(max_orthogonalized_dim=127), model).param_groups
    adamws = {p for group in groups if not group["orthogonal"] for p in group["params"]}
    assert {model.get_parameter(f"blocks.0.mlp.{name}.weight") for name in ("up", "down")} <= adamws


def test_neighbours_are_attention_layers_two_by_two() -> None:
    for name, inputs, layers in [("gpt2", ["attention.qkv"], (0, 1)), ("sigma", ["mixer.input", "mixer.up"], (2, 5))]:
        model = model_of(name)
        pairs = teon.neighbours(model, hidden_matrices(model))
        expected = [tuple(model.get_parameter(f"blocks.{n}.{i}.weight") for n in layers) for i in inputs]
        assert [tuple(map(id, pair)) for pair in pairs] == [tuple(map(id, pair)) for pair in expected]


def test_wrong_row_blocks_are_refused_with_the_numbers() -> None:
    layer = nn.Linear(16, 48)
    layer.row_blocks = (16, 16)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="48 rows"):
        hidden_matrices(layer)


def test_single_rows_and_frozen_matrices_are_left_out() -> None:
    layers = nn.ModuleList([nn.Linear(8, 1), nn.Linear(1, 8), nn.Linear(8, 8), nn.Linear(8, 2)])
    layers[2].weight.requires_grad_(False)  # type: ignore[union-attr]
    assert list(hidden_matrices(layers)) == [layers[3].weight]
