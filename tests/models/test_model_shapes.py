"""Sizes: parameter counts, the arithmetic cost, and shapes that cannot be."""

import pytest
import torch

from eco.models import decoder, gpt2
from eco.models.contract import LanguageModelConfig


def on_meta(config: LanguageModelConfig):
    with torch.device("meta"):
        return (gpt2 if isinstance(config, gpt2.Config) else decoder).build(config)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (gpt2.Config(vocab_size=50257, context=1024), 124_439_808),  # GPT-2 small
        (gpt2.Config(vocab_size=50257, context=1024, width=1600, layers=48, heads=25), 1_557_611_200),  # GPT-2 XL
        (
            decoder.Config(
                vocab_size=32000, width=2048, layers=22, heads=32, kv_heads=4, feed_forward=5632, tied=False
            ),
            1_100_048_384,  # TinyLlama 1.1B
        ),
        (
            decoder.Config(vocab_size=49152, width=576, layers=30, heads=9, kv_heads=3, feed_forward=1536),
            134_515_008,  # SmolLM 135M
        ),
    ],
    ids=["gpt2", "gpt2-xl", "tinyllama", "smollm-135m"],
)
def test_published_parameter_counts(config: LanguageModelConfig, parameters: int) -> None:
    model = on_meta(config)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(model.parameter_table().values()) == parameters


def test_the_table_counts_a_tied_head_once() -> None:
    sizes = {"vocab_size": 100, "width": 32, "layers": 2, "heads": 4}
    tied = on_meta(decoder.Config(**sizes)).parameter_table()
    untied = on_meta(decoder.Config(**sizes, tied=False)).parameter_table()
    assert "head" not in tied and untied == tied | {"head": 3200}
    assert tied["blocks.attention.qkv"] == 2 * 3 * 32 * 32
    assert tied["blocks.mlp.gate_up"] == 2 * 2 * 128 * 32  # 8/3 x 32 up to a multiple of 64


@pytest.mark.parametrize("tied", [True, False])
def test_flops_count_matrix_products_and_attention(tied: bool) -> None:
    config = gpt2.Config(vocab_size=50257, context=1024, tied=tied)
    matrices = 12 * (4 + 8) * 768 * 768 + 50257 * 768
    assert on_meta(config).flops_per_token() == 6 * matrices + 12 * 12 * 768 * 1024


@pytest.mark.parametrize(
    ("family", "sizes", "message"),
    [
        (gpt2, {"width": 100, "heads": 12}, "width 100 cannot be cut into 12 heads.*heads: 10, or a width.*108"),
        (decoder, {"width": 100, "heads": 12}, "width 100 cannot be cut into 12 heads"),
        (decoder, {"width": 36, "heads": 4}, r"even head size, but width 36 / heads 4 = 9; take width: 40"),
        (decoder, {"width": 64, "heads": 8, "kv_heads": 3}, "8 heads cannot share 3 kv_heads evenly"),
        (decoder, {"width": 64, "heads": 4, "kv_heads": 8}, "4 heads cannot share 8 kv_heads evenly"),
        (decoder, {"layers": 0}, "greater than 0"),
        (gpt2, {"dropout": 1.0}, "less than 1"),
    ],
)
def test_impossible_shapes_say_what_to_do(family, sizes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        family.Config(vocab_size=10, **sizes)


@pytest.mark.parametrize("family", [gpt2, decoder])
def test_a_model_without_vocabulary_is_refused(family) -> None:
    with pytest.raises(ValueError, match="vocab_size is 0"):
        family.build(family.Config())
