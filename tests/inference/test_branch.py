"""Samples that go on from one prompt, and rows that leave: what they read must be their own past."""

import pytest
import torch

from eco.kernels import native
from eco.models import decoder, gpt2
from eco.models.contract import LanguageModel, build_model

needs_cpp = pytest.mark.skipif(native.library() is None, reason="no C++ kernels on this machine")
SIZES = {"vocab_size": 67, "context": 40, "layers": 2}
CONFIGS = [
    gpt2.Config(**SIZES, width=48, heads=3),
    decoder.Config(**SIZES, width=64, heads=4, kv_heads=2, qk_norm=True),
]
PROMPT, NEW = 9, 8
SOURCE = torch.tensor([2, 0, 0, 1, 0, 2])
LEAVING = {2: [5, 0, 1, 3], 5: [2, 0]}
"""After so many new tokens these rows of the batch go on."""


@pytest.fixture(params=CONFIGS, ids=["gpt2", "decoder"])
def model(request) -> LanguageModel:
    config = request.param
    room = {"gpt2": gpt2, "decoder": decoder}[config.family]
    return build_model(room.build, config, 3, torch.device("cpu")).eval()


def continued(model: LanguageModel, padding: torch.Tensor | None, shared: bool):
    """Yields (rows of SOURCE left, their logits, logits without a cache) after each new token, and the cache."""
    prompts = torch.randint(67, (3, PROMPT), generator=torch.Generator().manual_seed(0))
    following = torch.randint(67, (len(SOURCE), NEW), generator=torch.Generator().manual_seed(1))
    whole = torch.cat([prompts[SOURCE], following], 1)
    cache = model.new_cache(3, PROMPT, padding)
    model(prompts, cache)
    cache.branch(SOURCE, NEW, shared)
    step = model.fused_step() if shared else lambda tokens, cache: model(tokens[:, None], cache)[:, -1]
    rows = torch.arange(len(SOURCE))
    for place in range(NEW):
        if place in LEAVING:
            cache.keep(torch.tensor(LEAVING[place]))
            rows = rows[LEAVING[place]]
        logits = step(following[rows, place], cache)
        pads = [0] * len(SOURCE) if padding is None else padding[SOURCE].tolist()
        alone = [model(whole[row : row + 1, pads[row] : PROMPT + place + 1])[0, -1] for row in rows]
        yield cache, logits, torch.stack(alone)


@torch.no_grad()
@pytest.mark.parametrize("shared", [pytest.param(True, marks=needs_cpp), False])
@pytest.mark.parametrize("padding", [None, [4, 0, 7]])
def test_each_row_continues_its_own_prompt(model, padding, shared):
    for _, logits, alone in continued(model, torch.tensor(padding) if padding else None, shared):
        torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-5)


@needs_cpp
@torch.no_grad()
def test_a_shared_prompt_is_kept_once_and_nothing_moves(model):
    addresses = set()
    for cache, _, _ in continued(model, None, True):
        assert cache.prefix.keys.shape[1] == 3 and cache.prefix.keys.shape[3] == PROMPT
        addresses.add((cache.prefix.keys.data_ptr(), cache.keys.data_ptr(), cache.values.data_ptr()))
    assert len(addresses) == 1


@needs_cpp
@torch.no_grad()
def test_bits_do_not_depend_on_who_shares_the_prompt(model):
    prompts = torch.randint(67, (3, PROMPT), generator=torch.Generator().manual_seed(0))
    drawn = []
    for source in ([1], [0, 1, 1, 2], [1] * 75):
        cache = model.new_cache(3, PROMPT)
        model(prompts, cache)
        cache.branch(torch.tensor(source), 2, True)
        tokens = torch.arange(len(source)) - source.index(1)
        logits = [model.fused_step()(tokens % 67, cache)[source.index(1)] for _ in range(2)]
        drawn.append(torch.stack(logits))
    assert all(torch.equal(drawn[0], other) for other in drawn[1:])


@torch.no_grad()
def test_room_ends_where_it_was_said(model):
    cache = model.new_cache(1, 3)
    model(torch.zeros(1, 3, dtype=torch.int64), cache)
    cache.branch(torch.tensor([0, 0]), 1, shared=False)
    model(torch.zeros(2, 1, dtype=torch.int64), cache)
    with pytest.raises(ValueError, match="holds 4 positions and 4 are taken"):
        model(torch.zeros(2, 1, dtype=torch.int64), cache)
