"""The fused C++ step against the models' own forward pass, and generation with both."""

import pytest
import torch

from eco.inference import Engine, Sampling
from eco.kernels import native
from eco.models import decoder, gpt2
from eco.models.contract import LanguageModel, build_model

needs_cpp = pytest.mark.skipif(native.library() is None, reason="no C++ kernels on this machine")

SIZES = {"vocab_size": 261, "context": 48, "layers": 3}
CONFIGS = {
    "gpt2": gpt2.Config(**SIZES, width=96, heads=4),
    "gpt2 exact GELU, no attention bias, untied": gpt2.Config(
        **SIZES, width=72, heads=3, feed_forward=101, activation="gelu", attention_bias=False, tied=False
    ),
    "decoder": decoder.Config(**SIZES, width=96, heads=4),
    "decoder grouped, biases, QK-norm, untied": decoder.Config(
        **SIZES, width=84, heads=6, kv_heads=2, attention_bias=True, mlp_bias=True, qk_norm=True, tied=False
    ),
    "decoder multi-query": decoder.Config(**SIZES, width=64, heads=2, kv_heads=1, feed_forward=37),
}


@pytest.fixture(params=CONFIGS)
def model(request) -> LanguageModel:
    config = CONFIGS[request.param]
    built = build_model({"gpt2": gpt2, "decoder": decoder}[config.family].build, config, 0, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in built.parameters():  # no bias stays 0 and no norm 1: each must be read from its place
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return built.eval()


@needs_cpp
@torch.no_grad()
@pytest.mark.parametrize("padding", [None, [0], [2, 0, 5], [0, 1, 2, 3, 0, 1, 6]])
def test_logits_and_cache_equal_the_forward_pass(model, padding):
    rows = len(padding or [0])
    tokens = torch.randint(0, 261, (rows, 15), generator=torch.Generator().manual_seed(2))
    pads = torch.tensor(padding) if padding else None
    slow, fast = model.new_cache(rows, 15, pads), model.new_cache(rows, 15, pads)
    model(tokens[:, :9], slow)
    model(tokens[:, :9], fast)
    step = model.fused_step()
    for place in range(9, 15):
        expected = model(tokens[:, place : place + 1], slow)[:, -1]
        torch.testing.assert_close(step(tokens[:, place], fast), expected, atol=1e-4, rtol=1e-5)
    assert slow.length == fast.length
    torch.testing.assert_close(slow.keys[..., 9:, :], fast.keys[..., 9:, :], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(slow.values[..., 9:, :], fast.values[..., 9:, :], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_last_only_is_the_end_of_all_logits(model):
    tokens = torch.arange(24).reshape(2, 12)
    last = model(tokens, last_only=True)
    assert last.shape == (2, 1, 261)
    torch.testing.assert_close(last, model(tokens)[:, -1:])


@needs_cpp
@torch.no_grad()
def test_bits_do_not_depend_on_threads_or_on_other_rows(model):
    tokens = torch.arange(75)
    results = []
    before = torch.get_num_threads()
    try:
        for threads, rows in [(1, 7), (2, 7), (3, 7), (2, 1), (2, 3), (2, 75)]:
            torch.set_num_threads(threads)
            cache, step = model.new_cache(rows, 3), model.fused_step()
            for _ in range(3):
                logits = step(tokens[:rows], cache)
            results.append(logits[0])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


@needs_cpp
@torch.no_grad()
def test_weights_trained_in_place_are_seen(model):
    step, tokens = model.fused_step(), torch.tensor([3])
    before = step(tokens, model.new_cache(1, 1))
    for parameter in model.parameters():
        parameter += 0.05
    expected = model(tokens[:, None], model.new_cache(1, 1))[:, -1]
    assert (expected - before).abs().max() > 1e-3
    torch.testing.assert_close(step(tokens, model.new_cache(1, 1)), expected, atol=1e-4, rtol=1e-5)


PROMPTS = ["def f", "a", "x = [1, 2", "def f", "The"]


@needs_cpp
def test_the_engine_uses_the_fused_step_and_says_the_same(model, byte_tokenizer, monkeypatch):
    sampling = Sampling(temperature=1.0, top_k=20, top_p=0.9, max_new_tokens=20)
    calls = []
    build = model.fused_step

    def counting():
        step = build()
        return lambda tokens, cache: calls.append(len(tokens)) or step(tokens, cache)

    monkeypatch.setattr(model, "fused_step", counting)
    fast = Engine(model, byte_tokenizer).generate(PROMPTS, sampling, samples=3)
    assert len(calls) == 19 and max(calls) == 15
    monkeypatch.setattr(model, "fused_step", lambda: None)
    slow = Engine(model, byte_tokenizer).generate(PROMPTS, sampling, samples=3)
    assert [[one.tokens for one in row] for row in fast] == [[one.tokens for one in row] for row in slow]
    assert fast[0][0].logprobs == pytest.approx(slow[0][0].logprobs, abs=1e-4)


@pytest.mark.parametrize("fused", [True, False])
def test_batched_equals_alone_equals_uncached(model, byte_tokenizer, monkeypatch, fused):
    if not fused:
        monkeypatch.setattr(model, "fused_step", lambda: None)
    engine = Engine(model, byte_tokenizer)
    sampling = Sampling(temperature=0, max_new_tokens=60)
    together = engine.generate(PROMPTS, sampling)
    for prompt, [done] in zip(PROMPTS, together, strict=True):
        [[alone]] = engine.generate([prompt], sampling)
        assert alone.tokens == done.tokens
        assert alone.logprobs == pytest.approx(done.logprobs, abs=1e-4)
        tokens = byte_tokenizer.encode(prompt)
        for expected in done.tokens:
            with torch.no_grad():
                assert model(torch.tensor([tokens]))[0, -1, :257].argmax() == expected
            tokens.append(expected)
        assert len(tokens) == 48 or done.finish == "eos"
