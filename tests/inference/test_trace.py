"""The trace against attention and gradients that are written out in float64; and that nothing is left behind."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eco import plugins
from eco.data.concepts import CONCEPTS, RATES
from eco.inference import trace as tracing
from eco.inference.trace import attended, trace
from eco.models import decoder, gpt2, sigma, simone
from eco.models.contract import LanguageModel, build_model
from eco.models.layers.cache import Past
from eco.models.layers.rotary import Rotation

SIZES = {"vocab_size": 261, "context": 40, "layers": 3, "width": 48}
CONFIGS = {
    "gpt2": gpt2.Config(**SIZES, heads=3, dropout=0.2),
    "gpt2 untied": gpt2.Config(**SIZES, heads=3, tied=False),
    "decoder": decoder.Config(**SIZES, heads=4, kv_heads=2, qk_norm=True, attention_dropout=0.1),
    "simone": simone.Config(**SIZES, heads=4, policy_rank=3, forgetting=True, control=True),
    "decoder coupled": decoder.Config(**SIZES, heads=4, instant_mode="coupling"),
}
TEXT = "In the beginning God made all"


def built(config) -> LanguageModel:
    model = build_model(plugins.find("models", config.family).build, config, 0, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    if getattr(config, "instant_mode", "off") != "off":
        from eco.models.instant import apply_instant

        apply_instant(model)
    return model.eval()


@pytest.fixture(params=CONFIGS)
def model(request) -> LanguageModel:
    return built(CONFIGS[request.param])


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("held", [1, 90, 1 << 20])
def test_attention_is_that_of_the_definition(monkeypatch, heads, held):
    monkeypatch.setattr(tracing, "_SCORES", held)
    generator = torch.Generator().manual_seed(heads)
    q = 3 * torch.randn(4, 23, 8, generator=generator)
    k = torch.randn(heads, 23, 8, generator=generator)
    found = attended(q, k, 0.3, 4)
    for query in range(23):
        weights = []
        for head in range(4):
            scores = 0.3 * (k[head // (4 // heads), : query + 1].double() @ q[head, query].double())
            weights.append(scores.exp() / scores.exp().sum())
            entropy = -(weights[-1] * weights[-1].log()).sum()
            assert float(found.entropy[head, query]) == pytest.approx(float(entropy), abs=1e-5)
        values, places = torch.stack(weights).mean(0).topk(min(4, query + 1))
        assert found.positions[query, : len(places)].tolist() == places.tolist()
        torch.testing.assert_close(found.weights[query, : len(values)].double(), values, atol=1e-6, rtol=1e-5)


def test_the_weights_are_those_that_the_layer_used(model, byte_tokenizer):
    tokens = torch.tensor([byte_tokenizer.encode(TEXT)])
    rows = list(trace(model, byte_tokenizer, TEXT, layers=[1], top=40))
    seen = {}
    hook = model.blocks[1].attention.register_forward_pre_hook(lambda _, inputs: seen.update(inputs=inputs[:2]))
    with torch.no_grad():
        model(tokens)
    hook.remove()
    weights = told_by_values(model.blocks[1].attention, *seen["inputs"])
    for place, row in enumerate(rows):
        of_layer = row["layers"]["1"]
        exact = weights[:, place, : place + 1]
        assert of_layer["entropy"] == pytest.approx((-(exact * exact.log()).sum(-1)).tolist(), abs=1e-5)
        mean = exact.mean(0)
        assert [weight for _, weight in of_layer["attended"]] == pytest.approx(sorted(mean.tolist())[::-1], abs=1e-5)
        assert all(
            weight == pytest.approx(float(mean[position]), abs=1e-5) for position, weight in of_layer["attended"]
        )


@torch.no_grad()
def told_by_values(attention: nn.Module, x: torch.Tensor, rotation: Rotation | None) -> torch.Tensor:
    """(H, T, T): a layer whose values are 1 at one position, each in a dimension of its own, puts out its weights."""
    attention, x = copy.deepcopy(attention).double(), x.double()
    attention.output = nn.Identity()
    heads, size, count, project = attention.heads, attention.head_size, x.shape[1], attention._heads_of
    columns = []
    for first in range(0, count, size):
        values = torch.zeros(1, attention.kv_heads, count, size, dtype=torch.float64)
        for place in range(first, min(first + size, count)):
            values[:, :, place, place - first] = 1
        attention._heads_of = lambda *inputs, v=values: (*project(*inputs)[:2], v)
        keys = torch.empty(1, attention.kv_heads, count, attention.key_size, dtype=torch.float64)
        y = attention(x, rotation, Past(keys, values.clone(), 0, None))
        y = y[0] if isinstance(y, tuple) else y
        columns.append(y[0].unflatten(-1, (heads, size)).transpose(0, 1))
    return torch.cat(columns, -1)[..., :count]


@pytest.mark.parametrize(
    "name", ["gpt2", "gpt2 untied", "decoder", "simone"]
)  # coupled streams lie on a grid: no differences
def test_surprisal_and_importance_are_those_of_differences(name, byte_tokenizer):
    model, text = built(CONFIGS[name]), TEXT[:12]
    rows = list(trace(model, byte_tokenizer, text, layers=[0]))
    tokens = byte_tokenizer.encode(text)
    assert [row["token"] for row in rows] == tokens
    assert "".join(row["text"] for row in rows) == text
    assert [row["position"] for row in rows] == list(range(len(tokens)))
    with torch.no_grad():
        expected = F.cross_entropy(model(torch.tensor([tokens]))[0, :-1], torch.tensor(tokens[1:]), reduction="none")
    assert rows[0]["surprisal"] is None
    assert [row["surprisal"] for row in rows[1:]] == pytest.approx(expected.tolist(), abs=1e-5)
    assert [row["importance"] for row in rows] == pytest.approx(differences(model, tokens), rel=2e-3, abs=1e-4)


def differences(model: LanguageModel, tokens: list[int]) -> list[float]:
    """sum |dL/de * e| from central differences in float64, one coordinate after the other."""
    model = copy.deepcopy(model).double()
    table, ids, size = model.embedding.weight.detach().clone(), torch.tensor([tokens]), model.embedding.weight.shape[1]
    count, step = len(tokens), 1e-5
    total = torch.zeros(count, dtype=torch.float64)
    shift = torch.zeros(2 * size, count, size, dtype=torch.float64)
    hook = model.embedding.register_forward_hook(lambda *_: table[ids[0]] + shift)
    with torch.no_grad():
        for place in range(count):
            shift.zero_()
            shift[torch.arange(size), place, torch.arange(size)] = step
            shift[torch.arange(size) + size, place, torch.arange(size)] = -step
            logits = model(ids.expand(2 * size, -1))[:, :-1].flatten(0, 1)
            losses = F.cross_entropy(logits, ids[0, 1:].repeat(2 * size), reduction="none").view(2 * size, -1).sum(1)
            gradient = (losses[:size] - losses[size:]) / (2 * step)
            total[place] = (gradient * table[tokens[place]]).abs().sum()
    hook.remove()
    return total.tolist()


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_behind(model, byte_tokenizer, training):
    model.train(training)
    model.blocks[0].mlp_norm.weight.grad = torch.ones(48)
    before = {name: (tensor.clone(), tensor._version) for name, tensor in model.named_parameters()}
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    tokens, random = torch.tensor([byte_tokenizer.encode(TEXT)]), torch.get_rng_state()
    with torch.no_grad():
        logits = model.eval()(tokens)
    model.train(training)
    rows = list(trace(model, byte_tokenizer, TEXT))
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training is training and all(module.training is training for module in model.modules())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name][0]) and parameter._version == before[name][1]
        given = name == "blocks.0.mlp_norm.weight"
        assert (parameter.grad is not None) == given and (not given or torch.equal(parameter.grad, torch.ones(48)))
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in model.named_buffers())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with torch.no_grad():
        assert torch.equal(model.eval()(tokens), logits)


def test_a_long_text_is_read_in_windows(byte_tokenizer):
    model = built(CONFIGS["decoder"])
    text = TEXT * 3
    rows = list(trace(model, byte_tokenizer, text, layers=[2, 0], top=3))
    assert len(rows) == 87 and [row["position"] for row in rows] == list(range(87))
    alone = list(trace(model, byte_tokenizer, text[40:80], layers=[2, 0], top=3))
    for row, other in zip(rows[40:80], alone, strict=True):
        assert row["surprisal"] == other["surprisal"] and row["importance"] == other["importance"]
        for layer in ("2", "0"):
            moved = [[position + 40, weight] for position, weight in other["layers"][layer]["attended"]]
            assert row["layers"][layer]["attended"] == moved
    assert [row["surprisal"] is None for row in rows].count(True) == 3
    [single] = trace(model, byte_tokenizer, "I")
    assert single["importance"] == 0 and single["layers"]["0"]["attended"] == [[0, 1.0]]


def test_a_model_that_reads_by_segments(byte_tokenizer):
    model = built(simone.Config(**SIZES, heads=4, segment=10, memory_slots=2))
    rows = list(trace(model, byte_tokenizer, TEXT, layers=[0, 0], top=40))
    for place, row in enumerate(rows):
        begin = place // 10 * 10
        positions = [position for position, _ in row["layers"]["0"]["attended"]]
        assert sorted(positions) == [-2, -1, *range(begin, place + 1)]  # its segment, and the slots before it
        assert sum(weight for _, weight in row["layers"]["0"]["attended"]) == pytest.approx(1, abs=1e-5)
        assert len(row["layers"]["0"]["entropy"]) == 4
    assert all(row["importance"] > 0 for row in rows[:-1])  # nothing follows the last


def test_concepts_are_those_of_the_trained_head(byte_tokenizer):
    model = built(simone.Config(**SIZES, heads=4, concept_weight=0.1))
    rows = list(trace(model, byte_tokenizer, TEXT, layers=[0], top=3))
    with torch.no_grad():
        hidden = model.hidden(torch.tensor([byte_tokenizer.encode(TEXT)]))
        odds = model.objectives.terms["concepts"].head(hidden)[0].exp()
        rates = torch.tensor(RATES).clamp(min=0.01)  # training weighs both answers alike
        probabilities = 1 / (1 + (1 - rates) / rates / odds)
    for row, exact in zip(rows, probabilities, strict=True):
        assert row["concepts"] == pytest.approx({CONCEPTS[i]: float(exact[i]) for i in exact.topk(3).indices}, abs=1e-6)
        assert list(row["concepts"].values()) == sorted(row["concepts"].values(), reverse=True)


def test_errors_say_what_can_be_traced(byte_tokenizer):
    model = built(CONFIGS["gpt2"])
    with pytest.raises(ValueError, match="no text"):
        trace(model, byte_tokenizer, "")
    with pytest.raises(ValueError, match="layer 3 cannot be traced; there is: 0, 1, 2"):
        trace(model, byte_tokenizer, "a", [3])
    with pytest.raises(ValueError, match="at least 1 position"):
        trace(model, byte_tokenizer, "a", top=0)
    other = build_model(sigma.build, sigma.Config(
        vocab_size=261, context=40, width=32, layers=3, heads=4, mamba_ratio=2, head_size=16, state=8, mimo_rank=2,
        chunk=8, latent=16, rope_size=4, feed_forward=48, routed_experts=0, document_end=-1,
    ), 0, torch.device("cpu"))  # fmt: skip
    with pytest.raises(ValueError, match="sigma cannot be traced"):
        trace(other, byte_tokenizer, "a")
