"""Generation with the cache says what the whole sequence says without it."""

import pytest
import torch
from small_models import TRANSFORMERS
from torch import Tensor

from eco.models import decoder, gpt2
from eco.models.contract import LanguageModel


@pytest.fixture(autouse=True)
def without_gradient():
    with torch.no_grad():
        yield


def in_chunks(model: LanguageModel, tokens: Tensor, chunks: tuple[int, ...], padding: Tensor | None = None) -> Tensor:
    cache = model.new_cache(len(tokens), tokens.shape[1], padding)
    logits = torch.cat([model(part, cache) for part in tokens.split(chunks, dim=1)], dim=1)
    assert cache.length == tokens.shape[1]
    return logits


@pytest.mark.parametrize("chunks", [(20,), (1,) * 20, (7, 1, 1, 5, 1, 5), (1, 19)], ids=str)
def test_cached_equals_uncached(model: LanguageModel, tokens: Tensor, chunks: tuple[int, ...]) -> None:
    torch.testing.assert_close(in_chunks(model, tokens, chunks), model(tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunks", [(20,), (1,) * 20, (9, 1, 1, 4, 5)], ids=str)
def test_left_padding_is_seen_by_no_token(model: LanguageModel, tokens: Tensor, chunks: tuple[int, ...]) -> None:
    padding = torch.tensor([0, 6, 13])
    logits = in_chunks(model, tokens, chunks, padding)
    assert logits.isfinite().all()
    for row, pad in enumerate(padding.tolist()):
        alone = model(tokens[row : row + 1, pad:])[0]
        torch.testing.assert_close(logits[row, pad:], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", TRANSFORMERS.values(), ids=TRANSFORMERS)
def test_every_query_sees_a_key(model: LanguageModel) -> None:
    """A softmax over nothing is NaN on some devices, and zero times NaN spreads."""
    cache = model.new_cache(3, 20, torch.tensor([0, 6, 13]))
    for count in (3, 1, 9, 7):
        mask = cache.extend(count)[0].mask
        assert mask is not None and mask.shape == (3, 1, count, cache.length) and mask.any(-1).all()


@pytest.mark.parametrize("padded", [False, True])
def test_finished_rows_leave_and_the_others_go_on(model: LanguageModel, tokens: Tensor, padded: bool) -> None:
    padding = torch.tensor([4, 0, 2]) if padded else None
    expected = in_chunks(model, tokens, (20,), padding)
    cache = model.new_cache(3, 20, padding)
    model(tokens[:, :10], cache)
    cache.keep(torch.tensor([2, 0]))
    left = torch.cat([model(tokens[[2, 0], 10:15], cache), model(tokens[[2, 0], 15:16], cache)], dim=1)
    torch.testing.assert_close(left, expected[[2, 0], 10:16], atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", TRANSFORMERS.values(), ids=TRANSFORMERS)
def test_the_cache_holds_the_compute_dtype(model: LanguageModel, tokens: Tensor) -> None:
    assert model.new_cache(2, 5).keys.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        cache = model.new_cache(3, 20)
        assert cache.keys.dtype == cache.values.dtype == torch.bfloat16
        cached = torch.cat([model(part, cache) for part in tokens.split((8, 1, 11), dim=1)], dim=1)
    torch.testing.assert_close(cached.float(), model(tokens), atol=0.1, rtol=0)


def test_a_full_cache_refuses_more(model: LanguageModel, tokens: Tensor) -> None:
    cache = model.new_cache(3, 10)
    model(tokens[:, :8], cache)
    with pytest.raises(ValueError, match="holds 10 positions and 8 are taken, so 3 more do not fit"):
        model(tokens[:, 8:11], cache)
    assert cache.length == 8
    model(tokens[:, 8:10], cache)


def test_learned_positions_end_at_the_context(make) -> None:
    model = make(gpt2.Config(vocab_size=5, context=8, width=16, layers=1, heads=2))
    tokens = torch.zeros(2, 12, dtype=torch.int64)
    with pytest.raises(ValueError, match="12 tokens exceed the 8 positions"):
        model(tokens)
    cache = model.new_cache(2, 12)
    model(tokens[:, :8], cache)
    with pytest.raises(ValueError, match="9 tokens exceed the 8 positions"):
        model(tokens[:, 8:9], cache)
    padded = model.new_cache(2, 12, torch.tensor([4, 5]))
    assert model(tokens, padded).isfinite().all(), "padding takes no position"


def test_rotary_positions_go_on_past_the_context(make, tokens: Tensor) -> None:
    sizes = {"vocab_size": 61, "width": 32, "layers": 2, "heads": 4}
    short, long = make(decoder.Config(**sizes, context=8)), make(decoder.Config(**sizes, context=32))
    assert torch.equal(short(tokens), long(tokens))
    torch.testing.assert_close(in_chunks(short, tokens, (6, 4, 1, 9)), long(tokens), atol=1e-5, rtol=0)
