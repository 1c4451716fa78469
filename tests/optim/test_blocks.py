"""Blocks of parameters: every element in exactly one, and heads and experts are blocks of their own."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from eco import recipe as recipes
from eco.models import decoder, gpt2, sigma
from eco.models.layers.attention import Attention
from eco.models.layers.latent_attention import LatentAttention
from eco.models.layers.mamba3 import Mamba3
from eco.models.layers.moe.experts import Experts
from eco.optim.parts.blocks import blocks_of

MODELS = {
    "sigma": sigma.build(recipes.load("sigma-tiny").model.for_tokenizer(512, 0)),
    "decoder": decoder.build(decoder.Config(width=64, layers=2, heads=4, kv_heads=2, vocab_size=300)),
    "gpt2": gpt2.build(gpt2.Config(width=64, layers=2, heads=4, vocab_size=300)),
}


def modules(kind: type[nn.Module]) -> list[nn.Module]:
    found = [module for model in MODELS.values() for module in model.modules() if isinstance(module, kind)]
    assert found
    return found


def lengths(module: nn.Module, name: str) -> list[int]:
    """Rows of the blocks of the weight of the layer `name`."""
    weight = module.get_submodule(name).get_parameter("weight")
    elements = blocks_of(module)[weight].diff()
    assert not (elements % weight.shape[1]).any()
    return (elements // weight.shape[1]).tolist()


@pytest.mark.parametrize("name", MODELS)
def test_blocks_cover_every_trainable_parameter_exactly(name: str) -> None:
    blocks = blocks_of(MODELS[name])
    assert set(blocks) == set(MODELS[name].parameters())
    for parameter, offsets in blocks.items():
        assert offsets.dtype == torch.int64
        assert (offsets[0], offsets[-1]) == (0, parameter.numel())
        assert all(begin < end for begin, end in pairwise(offsets.tolist()))


def test_a_head_of_attention_is_a_block() -> None:
    for module in modules(Attention):
        assert isinstance(module, Attention)
        assert lengths(module, "qkv") == [module.head_size] * (module.heads + 2 * module.kv_heads)


def test_a_head_of_latent_attention_is_a_block() -> None:
    for module in modules(LatentAttention):
        assert isinstance(module, LatentAttention)
        queries, latent = module.query_heads, module.up.in_features
        assert lengths(module, "input") == [module.nope] * queries + [module.rope] * queries + [latent, module.rope]
        assert lengths(module, "up") == [module.nope] * queries + [module.value] * module.heads


def test_a_head_of_mamba_is_a_block() -> None:
    for module in modules(Mamba3):
        assert isinstance(module, Mamba3)
        state = module.key_bias.shape[-1]
        expected = [module.head_size] * (2 * module.heads) + [state] * (2 * module.rank)
        assert lengths(module, "input") == expected


def test_a_matrix_of_an_expert_is_a_block() -> None:
    for module in modules(Experts):
        assert isinstance(module, Experts)
        hidden, width = module.norm.weight.numel(), module.gate_up.in_features
        assert lengths(module, "gate_up") == [hidden] * (2 * module.count)
        assert lengths(module, "down") == [width] * module.count


@pytest.mark.parametrize(
    ("shape", "offsets"),
    [
        ((), [0, 1]),
        ((7,), [0, 7]),
        ((30,), [0, 16, 30]),
        ((5, 6), [0, 12, 24, 30]),  # two rows fit into 16
        ((2, 3, 4), [0, 12, 24]),
        ((2, 20), [0, 16, 32, 40]),  # no row fits
    ],
)
def test_elsewhere_blocks_are_whole_rows(shape: tuple[int, ...], offsets: list[int]) -> None:
    module = nn.Module()
    module.weight = nn.Parameter(torch.zeros(shape))
    assert blocks_of(module, 16)[module.weight].tolist() == offsets


def test_frozen_parameters_have_none_and_tied_ones_are_there_once() -> None:
    model = gpt2.build(gpt2.Config(width=64, layers=1, heads=4, vocab_size=300))
    model.position.weight.requires_grad_(False)
    assert set(blocks_of(model)) == {p for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0,)])
def test_a_parameter_without_elements_has_none(shape: tuple[int, ...]) -> None:
    module = nn.Linear(4, 4)
    module.empty = nn.Parameter(torch.zeros(shape))
    assert set(blocks_of(module)) == {module.weight, module.bias}


def test_units_that_do_not_add_up_are_refused_with_the_numbers() -> None:
    model = nn.Sequential(nn.Linear(4, 12))
    model[0].unit_rows = (4, 4)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"0\.unit_rows is \(4, 4\), but the weight has 12 rows"):
        blocks_of(model)
