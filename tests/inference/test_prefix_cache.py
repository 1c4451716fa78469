"""The prefix cache: what is continued from it is what would have been computed; no more is kept than was allowed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from eco import plugins
from eco.inference import Engine, PrefixCache, Sampling
from eco.inference.growth import prefill
from eco.inference.prefix_cache import BLOCK
from eco.inference.row import Row
from eco.inference.sampling import uniforms
from eco.inference.text import GrowingText
from eco.models import decoder, gpt2, sigma, simone
from eco.models.contract import LanguageModel, build_model

SIZES = {"vocab_size": 261, "context": 160, "layers": 2, "width": 48}
CONFIGS = {
    "gpt2": gpt2.Config(**SIZES, heads=3),
    "decoder": decoder.Config(**SIZES, heads=4, kv_heads=2, qk_norm=True),
    "simone": simone.Config(**SIZES, heads=4, policy_rank=3, forgetting=True, control=True),
}
ROOM = 1 << 24
GREEDY = Sampling(temperature=0, max_new_tokens=12)


def built(config, seed: int = 0) -> LanguageModel:
    model = build_model(plugins.find("models", config.family).build, config, seed, torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture(params=CONFIGS)
def model(request) -> LanguageModel:
    return built(CONFIGS[request.param])


MODELS = {name: built(config) for name, config in CONFIGS.items()}


def first_logits(model: LanguageModel, prompts: list[list[int]], cache: PrefixCache | None) -> torch.Tensor:
    rows = [Row(prompt, b"", 4, uniforms(0, "", 0, 4), GrowingText(())) for prompt in prompts]
    with torch.no_grad():
        return prefill(model, rows, False, cache)[0]


def block_bytes(model: LanguageModel) -> int:
    cache = model.new_cache(1, BLOCK)
    return cache.keys.nbytes + cache.values.nbytes


def tokens(count: int, seed: int) -> list[int]:
    return torch.randint(0, 256, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


STEMS = [tokens(110, seed) for seed in range(3)]
PROMPTS = st.builds(
    lambda stem, kept, tail, seed: STEMS[stem][:kept] + tokens(tail, seed),
    st.integers(0, 2), st.integers(0, 110), st.integers(1, 40), st.integers(3, 6),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    family=st.sampled_from(list(CONFIGS)),
    batches=st.lists(st.lists(PROMPTS, min_size=1, max_size=3), min_size=1, max_size=5),
    blocks=st.sampled_from([1, 2, 5, 100]),
)
def test_cached_is_uncached_within_the_bound(family, batches, blocks):
    model = MODELS[family]
    cache = PrefixCache(blocks * block_bytes(model) + 7)
    for prompts in batches:
        expected = first_logits(model, prompts, None)
        torch.testing.assert_close(first_logits(model, prompts, cache), expected, atol=1e-4, rtol=0)
        kept = [block.keys.nbytes + block.values.nbytes for block in cache._blocks.values()]
        assert sum(kept) == cache.statistics.bytes <= cache.capacity


@pytest.mark.parametrize("fused", [True, False])
def test_greedy_texts_are_equal(model, byte_tokenizer, monkeypatch, fused):
    if not fused:
        monkeypatch.setattr(model, "fused_step", lambda: None)
    stem = "def f(x):\n    return x\n" * 4
    prompts = [stem + end for end in ("a", "def g(", "print", "a longer end of the prompt")]
    plain = Engine(model, byte_tokenizer)
    cached = Engine(model, byte_tokenizer, prefix_cache=PrefixCache(ROOM))
    for asked in (prompts[:1], prompts[:1], prompts, prompts[::-1], [stem]):
        expected = [[one.tokens for one in row] for row in plain.generate(asked, GREEDY, samples=2)]
        assert [[one.tokens for one in row] for row in cached.generate(asked, GREEDY, samples=2)] == expected
    assert "".join(cached.stream(prompts[1], GREEDY)) == plain.generate(prompts[1:2], GREEDY)[0][0].text
    assert cached.prefix_cache.statistics.hits > 8


def test_what_is_known_is_not_computed_again(model):
    seen = []
    model.embedding.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    cache, stem = PrefixCache(ROOM), tokens(100, 0)
    first_logits(model, [[*stem, 1]], cache)
    first_logits(model, [[*stem, 2, 3]], cache)
    assert seen == [(1, 101), (1, 102 - 96)]
    statistics = cache.statistics
    assert (statistics.hits, statistics.misses, statistics.tokens_saved) == (1, 1, 96)
    assert statistics.bytes == 3 * block_bytes(model)
    first_logits(model, [stem[:96]], cache)  # the last token is always computed: its logits are wanted
    assert seen[-1] == (1, 32)


def test_a_batch_computes_what_it_shares_once(model):
    seen = []
    model.embedding.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    stem = tokens(70, 1)
    cache = PrefixCache(ROOM)
    first_logits(model, [[*stem, 1], [*stem, 2, 3, 4], [*stem, 5, 6]], cache)
    assert seen == [(1, 64), (3, 73 - 64)]
    assert cache.statistics.tokens_saved == 3 * 64 - 64 - 3  # the shorter rows begin 2 and 1 columns later


@pytest.mark.parametrize(
    "change",
    ["load", "adamw", "adamw fused", "adamw foreach", "sgd", "muon", "c3o", "in place", "swapped", "replaced", "cast"],
)
@pytest.mark.parametrize("model", ["gpt2", "decoder"], indirect=True)
def test_any_change_of_the_weights_is_noticed(model, change):
    cache, prompt, other = PrefixCache(ROOM), tokens(90, 2), built(model.config, 5)
    first_logits(model, [prompt], cache)
    assert cache.statistics.bytes > 0
    if change == "load":
        model.load_state_dict(other.state_dict())
    elif change == "in place":
        with torch.no_grad():
            model.blocks[0].attention.qkv.weight[0] += 1.0
    elif change == "swapped":
        weight = model.blocks[0].mlp_norm.weight
        weight.data = other.blocks[0].mlp_norm.weight.data
    elif change == "replaced":
        for name, parameter in list(model.named_parameters()):
            owner, _, last = name.rpartition(".")
            new = nn.Parameter(other.get_parameter(name).detach().clone())
            del parameter
            setattr(model.get_submodule(owner), last, None)
            setattr(model.get_submodule(owner), last, new)
    elif change == "cast":
        model.double().float()
        with torch.no_grad():
            model.embedding.weight.add_(0.1)
    else:
        step(model, change)
    torch.testing.assert_close(
        first_logits(model, [prompt], cache), first_logits(model, [prompt], None), atol=0, rtol=0
    )
    assert (cache.statistics.invalidations, cache.statistics.tokens_saved) == (1, 0)


def step(model: LanguageModel, name: str) -> None:
    """One step of an optimizer, of torch or of this house."""
    sequence = torch.tensor([tokens(40, 9)])
    model.training_step({"tokens": sequence[:, :-1], "targets": sequence[:, 1:]}).losses["lm"].backward()
    parameters = list(model.parameters())
    if name in ("muon", "c3o"):
        room = plugins.find("optim", name)
        optimizer = room.build(room.Config(name=name, lr=0.01), model)
    elif name == "sgd":
        optimizer = torch.optim.SGD(parameters, lr=0.1)
    else:
        kind = name.partition(" ")[2]
        optimizer = torch.optim.AdamW(parameters, lr=0.1, **({kind: True} if kind else {}))
    optimizer.step()


def test_unchanged_weights_keep_everything(model):
    cache, prompt = PrefixCache(ROOM), tokens(90, 2)
    first_logits(model, [prompt], cache)
    model.train().eval()
    model.state_dict()
    first_logits(model, [prompt], cache)
    assert (cache.statistics.invalidations, cache.statistics.tokens_saved) == (0, 64)


def test_no_block_outlives_one_that_it_continues(model):
    cache = PrefixCache(4 * block_bytes(model))
    one, other = tokens(130, 3), tokens(100, 4)
    for prompt in (one, other[:70], one[:40] + other[:60], one, other, one[:70]):
        first_logits(model, [prompt], cache)
        for known in (one, other):
            names = cache._names(model, tuple(known), whole=True)
            held = [name in cache._blocks for name in names]
            assert held == sorted(held, reverse=True)  # a beginning is held, and nothing behind a gap
    assert cache.statistics.evictions > 0
    assert len(cache._blocks) <= 4


def test_the_least_recently_used_goes(model):
    cache = PrefixCache(2 * block_bytes(model))
    old, kept, new = (tokens(40, seed) for seed in (5, 6, 7))
    for prompt in (old, kept, old, kept, new):
        first_logits(model, [prompt], cache)
    saved = cache.statistics.tokens_saved
    first_logits(model, [kept], cache)
    assert cache.statistics.tokens_saved == saved + BLOCK
    first_logits(model, [old], cache)
    assert cache.statistics.tokens_saved == saved + BLOCK


def test_another_conditioning_shares_nothing(model):
    cache, prompt = PrefixCache(ROOM), tokens(90, 2)
    first_logits(model, [prompt], cache)
    model.conditioning = "quality 10"
    first_logits(model, [prompt], cache)
    assert cache.statistics.hits == 0 and cache.statistics.bytes == 4 * block_bytes(model)
    cache.clear()
    assert cache.statistics.bytes == 0


OTHERS = [
    simone.Config(**SIZES, heads=4, segment=40, memory_slots=3),
    sigma.Config(
        vocab_size=261, context=160, width=32, layers=3, heads=4, mamba_ratio=2, head_size=16, state=8, mimo_rank=2,
        chunk=8, latent=16, rope_size=4, feed_forward=48, routed_experts=0, document_end=-1,
    ),
]  # fmt: skip


@pytest.mark.parametrize("config", OTHERS, ids=lambda config: config.family)
def test_other_models_pass_by(config):
    model = built(config)
    cache, prompt = PrefixCache(ROOM), tokens(90, 2)
    for _ in range(2):
        assert torch.equal(first_logits(model, [prompt], cache), first_logits(model, [prompt], None))
    assert cache.statistics.bytes == 0


def test_a_capacity_of_nothing_is_refused():
    with pytest.raises(ValueError, match="holds nothing"):
        PrefixCache(0)


def test_what_lay_in_the_memory_of_padding_does_not_matter(model, monkeypatch):
    cache, stem, plain = PrefixCache(ROOM), tokens(80, 3), model.new_cache
    prompts = [[*stem, 1], [*stem, *tokens(60, 4)]]
    expected = first_logits(model, prompts, cache)

    def dirty(*arguments):
        made = plain(*arguments)
        made.keys.fill_(torch.nan)
        made.values.fill_(torch.nan)
        return made

    monkeypatch.setattr(model, "new_cache", dirty)
    torch.testing.assert_close(first_logits(model, prompts, cache), expected, atol=1e-5, rtol=0)
