from torch import nn

from eco.models import decoder, gpt2
from eco.models.layers.linear import StackedLinear
from eco.optim.parts.roles import hidden_matrices


def test_muon_sees_queries_keys_and_values_apart():
    config = decoder.Config(vocab_size=64, context=16, width=32, layers=1, heads=4, kv_heads=2, feed_forward=48)
    model = decoder.build(config)
    blocks = {name: hidden_matrices(model)[m.weight] for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert blocks["blocks.0.attention.qkv"] == (32, 16, 16)
    assert blocks["blocks.0.mlp.gate_up"] == (48, 48)
    assert blocks["blocks.0.mlp.down"] == (32,)
    assert "head" not in blocks or model.config.tied is False


def test_both_architectures_stack_their_projections():
    for module in (decoder, gpt2):
        model = module.build(module.Config(vocab_size=64, context=16, width=32, layers=1, heads=4))
        assert any(isinstance(m, StackedLinear) and len(m.row_blocks) == 3 for m in model.modules())
