"""SigmaLM as a whole: documents stand alone, parts can be left out, routing is balanced, sizes are told true."""

import copy

import pytest
import torch
from small_models import SIGMA_SIZES, SIGMAS
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from eco import recipe as recipes
from eco.kernels import native
from eco.models import sigma
from eco.models.contract import LanguageModel, LanguageModelConfig
from eco.models.layers.bitlinear import BitLinear
from eco.models.layers.latent_attention import LatentAttention
from eco.models.layers.mamba3 import Mamba3
from eco.models.layers.moe import MoE

END = 7
DOCUMENTS = SIGMA_SIZES | {"document_end": END}


@pytest.fixture(params=SIGMAS)
def config(request: pytest.FixtureRequest) -> LanguageModelConfig:
    return SIGMAS[request.param]


def with_documents(config: sigma.Config) -> sigma.Config:
    return config.model_copy(update={"document_end": END})


def two_documents() -> tuple[Tensor, int]:
    """(2, 20) tokens in which, after 9, another document begins."""
    tokens = torch.randint(END + 1, 61, (2, 20), generator=torch.Generator().manual_seed(3))
    tokens[:, 8] = END
    return tokens, 9


@torch.no_grad()
def test_a_document_is_read_as_if_it_stood_alone(config: sigma.Config, make) -> None:
    model, (tokens, begin) = make(with_documents(config)), two_documents()
    packed, alone = model(tokens)[:, begin:], model(tokens[:, begin:])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)
    one_window = make(config)(tokens)[:, begin:]
    assert (one_window - alone).abs().amax() > 0.01, "read as one document, what came before matters"


@torch.no_grad()
@pytest.mark.parametrize("chunks", [(20,), (5, 15), (9, 11), (8, 1, 11), (1,) * 20])
def test_documents_end_in_the_cache_too(config: sigma.Config, make, chunks: tuple[int, ...]) -> None:
    model, (tokens, _) = make(with_documents(config)), two_documents()
    tokens[1] = tokens[1].roll(3)  # the rows' documents end at different places
    cache = model.new_cache(2, 20)
    pieces = [model(part, cache) for part in tokens.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), atol=1e-5, rtol=0)


@torch.no_grad()
def test_left_padding_may_hold_ends_of_documents(config: sigma.Config, make) -> None:
    model, (tokens, _) = make(with_documents(config)), two_documents()
    padded = torch.cat([torch.full((2, 4), END), tokens], dim=1)
    padded[1] = torch.cat([torch.full((2,), END), tokens[1], torch.full((2,), 11)])
    cache = model.new_cache(2, 30, torch.tensor([4, 2]))
    logits = torch.cat([model(padded[:, :13], cache), model(padded[:, 13:], cache)], dim=1)
    torch.testing.assert_close(logits[0, 4:], model(tokens)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits[1, 2:22], model(tokens)[1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_rows_that_branch_go_on_with_room_of_their_own(config: sigma.Config, make) -> None:
    model, (tokens, _) = make(with_documents(config)), two_documents()
    expected = model(tokens)
    cache = model.new_cache(2, 10)
    model(tokens[:, :10], cache)
    cache.branch(torch.tensor([1, 0, 1]), 10, shared=False)
    logits = model(tokens[[1, 0, 1], 10:], cache)
    torch.testing.assert_close(logits, expected[[1, 0, 1], 10:], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="holds 20 positions and 20 are taken"):
        model(tokens[[1, 0, 1], :1], cache)


def test_the_stack_repeats_its_ratio() -> None:
    kinds = sigma.Config(layers=18, mamba_ratio=5, attention_ratio=1).kinds
    assert kinds == (["recurrent"] * 5 + ["latent"]) * 3


def parts(model: LanguageModel) -> dict[str, int]:
    return {
        kind.__name__: sum(isinstance(module, kind) for module in model.modules())
        for kind in (BitLinear, LatentAttention, Mamba3, MoE)
    }


def test_what_is_made_of_what(make) -> None:
    full, plain = (make(config) for config in SIGMAS.values())
    assert parts(full) == {"BitLinear": 18, "LatentAttention": 1, "Mamba3": 2, "MoE": 3}
    assert parts(plain) == {"BitLinear": 0, "LatentAttention": 1, "Mamba3": 2, "MoE": 0}
    told = full.algorithmic_features()
    assert told["bitlinear_layers"] == 18 and told["mla_layers"] == 1 and told["mamba3_layers"] == 2
    assert told["differential_mla_enabled"] == 1 and plain.algorithmic_features()["differential_mla_enabled"] == 0
    assert full.features == ("mamba_scan", "mamba_rotation", "diff_mla", "moe", "rib", "bitlinear")
    assert plain.features == ("mamba_scan",)


@pytest.mark.parametrize(
    "off",
    [
        {"differential": False},
        {"rotate_state": False},
        {"routed_experts": 0},
        {"quant_mode": "none"},
        {"mimo_rank": 1},
        {"rib": False},
    ],
    ids=lambda off: next(iter(off)),
)
def test_each_part_acts(make, tokens: Tensor, off: dict[str, object]) -> None:
    """Its absence changes what is computed or learnt from the same seed."""
    results = []
    for config in (sigma.Config(**SIGMA_SIZES), sigma.Config(**SIGMA_SIZES | off)):
        model = make(config).train()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            losses = model.training_step({"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}).losses
        sum(model.loss_weights.get(name, 1.0) * loss for name, loss in losses.items()).backward()
        results.append((losses["lm"].item(), model.embedding.weight.grad))
    assert results[0][0] != results[1][0] or not torch.equal(results[0][1], results[1][1])


def trained_step(model: LanguageModel, tokens: Tensor, lr: float = 1e-2) -> dict[str, float]:
    """One step of a trainer; returns the evidence."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    output = model.training_step({"tokens": tokens[:, :-1], "targets": tokens[:, 1:]})
    sum(output.losses.values()).backward()
    evidence = model.evidence()
    optimizer.step()
    model.after_step()
    model.zero_grad()
    return evidence


def test_evidence_is_there_where_something_acts(make, tokens: Tensor) -> None:
    model = make(sigma.Config(**SIGMA_SIZES)).train()
    assert model.evidence()["mamba_scan"] == 0, "no gradient, no evidence"
    assert trained_step(model, tokens)["rib"] == 0, "no routing yet that would move its temperature"
    evidence = trained_step(model, tokens)
    assert set(evidence) == set(model.features) and all(value > 0 for value in evidence.values())


def test_after_a_step_training_and_evaluation_see_the_same_weights(make, tokens: Tensor) -> None:
    model = make(sigma.Config(**SIGMA_SIZES, jitter=0.0)).train()
    before = model(tokens)
    trained_step(model, tokens)
    after = model(tokens)
    assert (after - before).abs().max() > 0.01
    fresh = make(model.config).train()
    fresh.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(fresh(tokens), after)
    torch.testing.assert_close(model.eval()(tokens), after)


def test_a_step_moves_the_balance_against_its_load(make, tokens: Tensor) -> None:
    model = make(sigma.Config(**SIGMA_SIZES)).train()
    mixture = next(module for module in model.modules() if isinstance(module, MoE))
    batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}
    for _ in range(2):  # micro-batches
        model.training_step(batch)
    load = sum(model._balance.loads)[0]
    assert load.sum() == 2 * 2 * tokens[:, :-1].numel(), "two experts of each token"
    others = load.flip(0) * 3  # as if another process had the opposite load
    model.after_step(lambda tensors: tensors[0][0].add_(others).div_(2))
    expected = torch.sign((load + others).mean() - (load + others)) * model.config.balance_rate
    torch.testing.assert_close(mixture.router.bias, expected)
    bias = mixture.router.bias.clone()
    model.after_step()
    assert torch.equal(mixture.router.bias, bias), "a load counts once"


@pytest.mark.parametrize("name", SIGMAS)
def test_flops_are_what_torch_counts(make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On sizes at which matrix products are nearly all there is, in plain torch, which can be counted."""
    monkeypatch.setattr(native, "library", lambda: None)
    larger = {"width": 128, "context": 64, "chunk": 16, "state": 16, "feed_forward": 192, "head_size": 32}
    model = make(SIGMAS[name].model_copy(update=larger)).train()
    tokens = torch.randint(0, 61, (2, 65), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        losses = model.training_step({"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}).losses
        sum(losses.values()).backward()
    assert model.flops_per_token() == pytest.approx(counter.get_total_flops() / 128, rel=0.1)


@pytest.mark.parametrize(("name", "least", "most"), [("sigma", 0.95e9, 1.05e9), ("sigma-small", 0.8e8, 1.2e8)])
def test_the_recipes_have_the_sizes_they_say(name: str, least: float, most: float) -> None:
    config = recipes.load(name).model
    config = config if config.vocab_size else config.model_copy(update={"vocab_size": 16_384})
    with torch.device("meta"):
        table = sigma.build(config).parameter_table()
    assert least < sum(table.values()) < most


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 5, "mamba_ratio": 5}, "hold no attention; take at least 6 layers"),
        ({"width": 30, "heads": 4}, "30 cannot be cut into 4 heads"),
        ({"head_size": 48}, "head_size 48 does not divide a Mamba layer's inner width 2 x 32 = 64"),
        ({"top_k": 5}, "top_k is 5, but there are 4 routed experts to choose from"),
        ({"routed_experts": 1, "top_k": 1}, "routed_experts is 1, so there is no choice"),
        ({"lambda_init": 0.01}, "lambda_init 0.01 must lie between lambda_min 0.05"),
        ({"lambda_min": 0.35, "lambda_max": 0.35}, "and a greater lambda_max 0.35"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sigma.Config(**SIGMA_SIZES | changes)


def test_the_tokenizer_fills_in_what_is_left_to_it() -> None:
    left_open = sigma.Config()
    filled = left_open.for_tokenizer(300, 2)
    assert (filled.vocab_size, filled.document_end) == (300, 2)
    assert sigma.Config(document_end=-1, vocab_size=400).for_tokenizer(300, 2).document_end == -1


def test_a_step_that_is_not_finite_leaves_no_trace(make, tokens: Tensor) -> None:
    model = make(sigma.Config(**SIGMA_SIZES)).train()
    batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}
    weight = model.blocks[0].experts_norm.weight
    kept, state = weight.detach().clone(), {name: b.clone() for name, b in model.named_buffers()}
    with torch.no_grad():
        weight[3] = float("nan")
    assert not model.training_step(batch).losses["lm"].isfinite()
    model.after_step()
    with torch.no_grad():
        weight.copy_(kept)
    assert all(torch.equal(buffer, state[name]) for name, buffer in model.named_buffers())
    assert model.training_step(batch).losses["lm"].isfinite()


@torch.no_grad()
def test_all_weights_in_bf16_work_too(config: sigma.Config, make, tokens: Tensor) -> None:
    model = make(config)
    expected = model(tokens)
    model.bfloat16()
    cache = model.new_cache(3, 20)
    for logits in (model(tokens), torch.cat([model(part, cache) for part in tokens.split((8, 1, 11), dim=1)], dim=1)):
        assert logits.dtype == torch.bfloat16 and (logits - expected).abs().mean() < 0.2 * expected.abs().mean()
