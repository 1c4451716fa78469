"""Batches of a model that takes no left padding."""

import pytest
import torch

from eco.inference import Engine, PrefixCache, Sampling
from eco.inference.guidance import Guided
from eco.models import simone
from eco.models.contract import LanguageModel, build_model

PROMPTS = ["a", "a prompt", "of seven", "letters", "a longer prompt than a segment", "b", "a", "an end"]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    config = simone.Config(
        vocab_size=258, context=96, width=32, layers=2, heads=4, segment=8, memory_slots=4, control=True
    )
    model = build_model(simone.build, config, 0, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize(("temperature", "batch_tokens"), [(0.0, 32_768), (1.0, 120)])
def test_the_rest_of_the_batch_changes_nothing(model, byte_tokenizer, temperature, batch_tokens, guided):
    sampling = Sampling(temperature=temperature, max_new_tokens=20, seed=3)
    model = Guided(model, "quality=0.9", scale=2.0) if guided else model
    crowd = Engine(model, byte_tokenizer, batch_tokens).generate(PROMPTS[:-2], sampling, samples=2)
    for prompt, done in zip(PROMPTS, crowd, strict=False):
        alone = Engine(model, byte_tokenizer).generate([prompt], sampling, samples=2)[0]
        assert [row.tokens for row in alone] == [row.tokens for row in done]
        assert [row.logprobs for row in alone] == [pytest.approx(row.logprobs, abs=1e-4) for row in done]
    assert len({row.text for each in crowd for row in each}) > 3, "the prompts count"


def test_what_is_generated_is_what_the_model_says(model, byte_tokenizer):
    """Greedy, over several segments, each token from the whole text before it."""
    [[done]] = Engine(model, byte_tokenizer).generate(["a prompt"], Sampling(temperature=0, max_new_tokens=40))
    tokens = list(done.prompt) + done.tokens
    with torch.no_grad():
        logits = model(torch.tensor([tokens]))[0, len(done.prompt) - 1 : -1, : byte_tokenizer.vocab_size]
    assert logits.argmax(-1).tolist() == done.tokens


def test_rows_of_one_length_go_together(model, byte_tokenizer):
    batches = Engine(model, byte_tokenizer)._batches(
        [Engine(model, byte_tokenizer)._row(p, byte_tokenizer.encode(p), Sampling(), 0) for p in PROMPTS], 8
    )
    assert [sorted(len(row.prompt) for row in batch) for batch in batches] == [[30], [8, 8], [7], [6], [1, 1, 1]]


def test_a_prefix_cache_passes_by(model, byte_tokenizer):
    sampling, kept = Sampling(temperature=0, max_new_tokens=10), PrefixCache(1 << 20)
    prompts = ["the same forty letters begin both of them: " + end for end in ("one", "two")]
    plain = Engine(model, byte_tokenizer).generate(prompts, sampling)
    assert Engine(model, byte_tokenizer, prefix_cache=kept).generate(prompts, sampling) == plain
    assert kept.statistics.bytes == 0
