"""A model that reads its window in segments: what reaches over their ends, and what the cache makes of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import VOCABULARY
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from eco.kernels import native
from eco.models import simone
from eco.models.contract import LanguageModel, build_model
from eco.models.governance.memory import MemorySlots
from eco.models.governance.segment_cache import SegmentCache

SEGMENT, CONTEXT, SLOTS = 6, 24, 3
SIZES = {"vocab_size": VOCABULARY, "context": CONTEXT, "width": 32, "layers": 2, "heads": 4, "segment": SEGMENT}
GOVERNED = {"policy_rank": 2, "forgetting": True, "control": True}
KINDS = {
    "memory": simone.Config(**SIZES, memory_slots=SLOTS),
    "no memory": simone.Config(**SIZES),
    "all": simone.Config(**SIZES, memory_slots=SLOTS, **GOVERNED),
}


@pytest.fixture(params=KINDS)
def config(request: pytest.FixtureRequest) -> simone.Config:
    return KINDS[request.param]


@pytest.fixture
def remembering(make) -> LanguageModel:
    return make(KINDS["memory"])


def by_hand(model: LanguageModel, tokens: Tensor) -> Tensor:
    """The logits of one row, (T, V), segment by segment, with attention written out: in float64."""
    x = model.embedding.weight[tokens]
    memory, parts = model.memory.initial, []
    for part in x.split(SEGMENT):
        hidden = _blocks(model, torch.cat([memory, part]))[SLOTS:]
        memory = _written(model.memory, memory, hidden)
        parts.append(hidden)
    return torch.cat(parts) @ model.embedding.weight.T


def _blocks(model: LanguageModel, x: Tensor) -> Tensor:
    angles = torch.outer(torch.arange(len(x)).double(), 10_000.0 ** -(torch.arange(0, 8, 2).double() / 8))
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]

    def turned(heads: Tensor) -> Tensor:
        a, b = heads.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    for block in model.blocks:
        q, k, v = (_norm(x, block.attention_norm) @ block.attention.qkv.weight.T).view(len(x), 3, 4, 8).unbind(1)
        scores = torch.einsum("qhd,khd->hqk", turned(q), turned(k)) / 8**0.5
        read = torch.einsum("hqk,khd->qhd", scores.masked_fill(later, -torch.inf).softmax(-1), v).flatten(1)
        x = x + read @ block.attention.output.weight.T
        x = x + block.mlp(_norm(x, block.mlp_norm))
    return _norm(x, model.norm)


def _written(slots: MemorySlots, memory: Tensor, hidden: Tensor) -> Tensor:
    asking, reads = _norm(memory, slots.norm), []
    for head in range(4):
        rows = slice(8 * head, 8 * head + 8)
        q, k, v = (
            asking @ slots.query[rows].T,
            hidden @ slots.key_value[:32][rows].T,
            hidden @ slots.key_value[32:][rows].T,
        )
        reads.append((q @ k.T / 8**0.5).softmax(-1) @ v)
    read = torch.cat(reads, -1)
    gate = 1 / (1 + (1 - torch.cat([asking, read], -1) @ slots.gate.weight.T - slots.gate.bias).exp())
    return gate * (read @ slots.output.T) + (1 - gate) * memory


def _norm(x: Tensor, norm: torch.nn.Module) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 6, 7, 20, 24])
def test_equals_the_computation_written_out(make, tokens: Tensor, count: int) -> None:
    model = make(KINDS["memory"])
    row = torch.cat([tokens, tokens], 1)[1:2, :count]
    logits = model(row)[0]
    torch.testing.assert_close(logits, by_hand(model.double(), row[0]).float(), atol=2e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("place", [0, 5, 6, 13, 19])
def test_no_token_reaches_one_before_it(model: LanguageModel, tokens: Tensor, place: int) -> None:
    other = tokens.clone()
    other[:, place] = (other[:, place] + 1) % VOCABULARY
    before, after = model(tokens), model(other)
    assert torch.equal(before[:, :place], after[:, :place])
    assert not torch.equal(before[:, place], after[:, place])


@torch.no_grad()
def test_only_slots_reach_over_the_end_of_a_segment(make, tokens: Tensor) -> None:
    other = tokens.clone()
    other[:, 0] = (other[:, 0] + 1) % VOCABULARY
    for name, reaches in (("memory", True), ("no memory", False)):
        model = make(KINDS[name])
        for first in range(SEGMENT, 20, SEGMENT):
            same = torch.equal(model(tokens)[:, first : first + SEGMENT], model(other)[:, first : first + SEGMENT])
            assert same is not reaches, (name, first)


@torch.no_grad()
def test_without_memory_each_segment_stands_alone(make, tokens: Tensor) -> None:
    model = make(KINDS["no memory"])
    alone = torch.cat([model(part) for part in tokens.split(SEGMENT, 1)], 1)
    torch.testing.assert_close(model(tokens), alone, atol=1e-6, rtol=0)


def in_chunks(model: LanguageModel, tokens: Tensor, chunks: list[int]) -> Tensor:
    cache = model.new_cache(len(tokens), tokens.shape[1])
    logits = torch.cat([model(part, cache) for part in tokens.split(chunks, 1)], 1)
    assert cache.length == tokens.shape[1]
    return logits


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_cached_equals_whole_for_any_chunks(model: LanguageModel) -> None:
    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(st.lists(st.integers(1, 15), min_size=1, max_size=12), st.integers(0, 2**20))
    def holds(chunks: list[int], seed: int) -> None:
        tokens = torch.randint(VOCABULARY, (2, sum(chunks)), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            torch.testing.assert_close(in_chunks(model, tokens, chunks), model(tokens), atol=1e-4, rtol=0)

    holds()


@torch.no_grad()
@pytest.mark.parametrize("prompt", [3, 6, 11, 12])
def test_each_row_goes_on_from_its_own_past(model: LanguageModel, prompt: int) -> None:
    """Rows branch off three prompts, and some leave; before, at and behind the end of a segment."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(VOCABULARY, (3, prompt), generator=generator)
    source = torch.tensor([2, 0, 0, 1])
    whole = torch.cat([prompts[source], torch.randint(VOCABULARY, (4, 10), generator=generator)], 1)
    cache = model.new_cache(3, prompt)
    model(prompts, cache, last_only=True)
    cache.branch(source, 10, shared=False)
    rows, expected = torch.arange(4), model(whole)
    for place in range(prompt, prompt + 10):
        if place in (prompt + 2, prompt + 7):
            left = torch.tensor([2, 0, 1])[: len(rows) - 1]
            cache.keep(left)
            rows = rows[left]
        logits = model(whole[rows, place : place + 1], cache)[:, 0]
        torch.testing.assert_close(logits, expected[rows, place], atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_cache_is_one_segment_however_long_the_text(remembering: LanguageModel, tokens: Tensor) -> None:
    cache = remembering.new_cache(3, 20)
    assert isinstance(cache, SegmentCache) and cache.kv is not None
    for part in tokens.split(1, 1):
        remembering(part, cache)
    cache.branch(torch.tensor([0, 1]), 1000, shared=False)
    assert cache.kv.keys.shape[3] == SLOTS + SEGMENT and cache.hidden.shape[1] == 20 % SEGMENT


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_last_segments_loss_reaches_the_first(remembering: LanguageModel, checkpointing: bool) -> None:
    """Through three writes: to the slots, to everything that writes them, and to the first segment's embeddings."""
    remembering.gradient_checkpointing = checkpointing
    first = torch.arange(SEGMENT)
    tokens = torch.cat([first, torch.full((18,), 50)])[None]  # no token of the first segment comes again
    remembering.hidden(tokens)[:, -1].square().sum().sqrt().backward()
    for name, parameter in remembering.memory.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert (remembering.embedding.weight.grad[first].abs().amax(-1) > 0).all()


def test_the_gates_are_a_loss_where_it_is_weighed(tokens: Tensor) -> None:
    batch = {"tokens": tokens, "targets": tokens}
    config = simone.Config(**SIZES, memory_slots=SLOTS, memory_weight=0.1)
    model = build_model(simone.build, config, 0, torch.device("cpu"))
    output = model.training_step(batch)
    assert output.metrics["memory_gate"] == pytest.approx(0.27, abs=0.05)
    output.losses["memory"].backward()
    assert (model.memory.gate.bias.grad > 0).all(), "opening them costs"
    short = {name: part[:, :SEGMENT] for name, part in batch.items()}
    assert "memory" not in model.training_step(short).losses, "one segment writes nothing"


@pytest.mark.parametrize("slots", [0, 16])
def test_flops_are_what_torch_counts(tokens: Tensor, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In plain torch, which can be counted; the last of the eight segments is not written."""
    monkeypatch.setattr(native, "library", lambda: None)
    sizes = SIZES | {"context": 256, "width": 64, "segment": 32}
    model = build_model(simone.build, simone.Config(**sizes, memory_slots=slots), 0, torch.device("cpu"))
    tokens = tokens.repeat(2, 13)[:, :256]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.training_step({"tokens": tokens, "targets": tokens}).losses["lm"].backward()
    assert model.flops_per_token() == pytest.approx(counter.get_total_flops() / tokens.numel(), rel=0.05)


@pytest.mark.parametrize(
    ("part", "further"), [({"control": True}, 0), ({"policy_rank": 8}, 9), ({"policy_rank": 8, "forgetting": True}, 15)]
)
def test_flops_of_governance_are_what_torch_counts(
    tokens: Tensor, part: dict, further: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain torch also pads the values with as many zeros as a query has further numbers, and multiplies them."""
    monkeypatch.setattr(native, "library", lambda: None)
    sizes = SIZES | {"context": 256, "width": 64, "segment": 0}
    model = build_model(simone.build, simone.Config(**sizes, **part), 0, torch.device("cpu"))
    tokens = tokens.repeat(2, 13)[:, :256]
    batch = {"tokens": tokens, "targets": tokens, "control": torch.rand(*tokens.shape, 5)}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.training_step(batch).losses["lm"].backward()
    padded = 6 * SIZES["layers"] * SIZES["heads"] * further * 256
    assert model.flops_per_token() == pytest.approx(counter.get_total_flops() / tokens.numel() - padded, rel=0.02)


@torch.no_grad()
def test_computes_in_bf16(remembering: LanguageModel, tokens: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        cached = in_chunks(remembering, tokens, [8, 1, 11])
        assert cached.dtype == torch.bfloat16
    torch.testing.assert_close(cached.float(), remembering(tokens), atol=0.3, rtol=0)


def test_a_segment_that_is_the_window_is_no_segment_at_all(tokens: Tensor) -> None:
    config = KINDS["no memory"].model_copy(update={"segment": CONTEXT})
    whole, plain = (
        build_model(simone.build, each, 0, torch.device("cpu"))
        for each in (config, config.model_copy(update={"segment": 0}))
    )
    assert torch.equal(whole(tokens), plain(tokens))
    assert not whole.left_padding and plain.left_padding
