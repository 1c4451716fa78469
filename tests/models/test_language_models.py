"""What holds for every language model: causality, gradients, learning, dropout, precision, initialisation."""

import copy

import pytest
import torch
import torch.nn.functional as F
from small_models import TRANSFORMERS
from torch import Tensor

from eco import plugins
from eco.models.contract import IGNORE, LanguageModel, LanguageModelConfig, build_model


def batch_of(tokens: Tensor) -> dict[str, Tensor]:
    return {"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}


def gradients(model: LanguageModel, tokens: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model.training_step(batch_of(tokens)).losses["lm"].backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def with_dropout(config: LanguageModelConfig, **rates: float) -> LanguageModelConfig:
    known = {kind: rate for kind, rate in rates.items() if kind in type(config).model_fields}
    return type(config)(**{**config.model_dump(), **known})


@torch.no_grad()
def test_a_token_changes_only_what_follows(model: LanguageModel, tokens: Tensor) -> None:
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % model.config.vocab_size
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert ((before - after)[:, 9:].abs().amax(-1) > 1e-4).all()


def test_the_loss_is_the_mean_over_targets_that_are_not_ignored(model: LanguageModel, tokens: Tensor) -> None:
    batch = batch_of(tokens)
    batch["targets"] = batch["targets"].clone()
    batch["targets"][0, 5:] = IGNORE
    output = model.training_step(batch)
    kept = batch["targets"] != IGNORE
    expected = F.cross_entropy(model(batch["tokens"])[kept], batch["targets"][kept])
    assert list(output.losses) == ["lm"] and output.carry is None, "a model in evaluation mode has no other losses"
    torch.testing.assert_close(output.losses["lm"], expected, atol=1e-5, rtol=1e-5)


def test_every_parameter_gets_a_gradient(model: LanguageModel, tokens: Tensor) -> None:
    found = gradients(model, tokens)
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert [name for name, gradient in found.items() if not gradient.abs().sum() > 0] == []


def test_one_batch_can_be_learned_by_heart(config: LanguageModelConfig, tokens: Tensor) -> None:
    model = build_model(plugins.find("models", config.family).build, config, 0, torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    first = last = model.training_step(batch_of(tokens)).losses["lm"]
    for _ in range(150):
        optimizer.zero_grad()
        last = model.training_step(batch_of(tokens)).losses["lm"]
        last.backward()
        optimizer.step()
        model.after_step()
    assert first > 3.5 and last < 0.02


def test_gradient_checkpointing_changes_no_bit(config: LanguageModelConfig, tokens: Tensor, make) -> None:
    model = make(with_dropout(config, dropout=0.1, attention_dropout=0.1)).train()
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    model.blocks[0].register_forward_pre_hook(count)
    found = []
    for model.gradient_checkpointing in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            found.append(gradients(model, tokens))
    assert calls == 1 + 2, "the second pass runs each block again in the backward"
    assert all(torch.equal(stored, found[1][name]) for name, stored in found[0].items())


@torch.no_grad()
def test_dropout_acts_in_training_only(config: LanguageModelConfig, tokens: Tensor, make) -> None:
    evaluation, training = changes_by_dropout(config, tokens, make, "dropout")
    assert evaluation == 0 and training > 0.01


@pytest.mark.parametrize("config", TRANSFORMERS.values(), ids=TRANSFORMERS)
@torch.no_grad()
def test_attention_dropout_acts_in_training_only(config: LanguageModelConfig, tokens: Tensor, make) -> None:
    evaluation, training = changes_by_dropout(config, tokens, make, "attention_dropout")
    assert evaluation == 0 and training > 0.01


def changes_by_dropout(config: LanguageModelConfig, tokens: Tensor, make, kind: str) -> tuple[Tensor, Tensor]:
    """The largest changes of the logits, in evaluation and in training; without the noise of a router."""
    model, plain = make(with_dropout(config, jitter=0.0, **{kind: 0.3})), make(config)
    expected = plain(tokens)
    evaluation = (model(tokens) - expected).abs().max()
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return evaluation, (model(tokens) - expected).abs().max()


@torch.no_grad()
def test_dropout_meets_the_embedding_and_both_sub_layers(config: LanguageModelConfig, tokens: Tensor, make) -> None:
    model = make(with_dropout(config, dropout=0.3)).train()
    zeros: list[float] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(lambda _, __, output: zeros.append((output == 0).float().mean().item()))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model(tokens)
    assert zeros == pytest.approx([0.3] * (1 + 2 * config.layers), abs=0.05)


def test_bf16_autocast_stays_close_to_fp32(model: LanguageModel, tokens: Tensor) -> None:
    exact, loss = gradients(model, tokens), model.training_step(batch_of(tokens)).losses["lm"]
    with torch.autocast("cpu", torch.bfloat16):
        rough, rough_loss = gradients(model, tokens), model.training_step(batch_of(tokens)).losses["lm"]
        assert model(tokens).dtype == torch.bfloat16
    assert loss != rough_loss, "autocast did nothing"
    assert rough_loss.dtype == torch.float32 and abs(loss - rough_loss) < 0.02
    # A ternary model rounds its activations to int8 as well, and bf16 moves some of them over to the next step.
    alike = 0.95 if getattr(model.config, "quant_mode", "none") == "bitnet_1_58" else 0.98
    for name, gradient in exact.items():
        assert rough[name].dtype == torch.float32
        assert F.cosine_similarity(gradient.flatten(), rough[name].flatten(), dim=0) > alike, name


def test_the_seed_alone_decides_the_weights(config: LanguageModelConfig) -> None:
    build = plugins.find("models", config.family).build
    state = torch.get_rng_state()
    torch.manual_seed(1)
    first = build_model(build, config, 3, torch.device("cpu")).state_dict()
    torch.manual_seed(2)
    again = build_model(build, config, 3, torch.device("cpu")).state_dict()
    other = build_model(build, config, 4, torch.device("cpu")).state_dict()
    torch.set_rng_state(state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


@torch.no_grad()
def test_init_fills_every_parameter_and_buffer(model: LanguageModel) -> None:
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.fill_(float("nan"))
    state = torch.get_rng_state()
    model.init_weights(torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.get_rng_state())
    assert all(tensor.isfinite().all() for tensor in [*model.parameters(), *model.buffers()])


@pytest.mark.parametrize("config", TRANSFORMERS.values(), ids=TRANSFORMERS)
def test_projections_into_the_residual_stream_start_smaller_with_depth(config: LanguageModelConfig) -> None:
    deep = type(config)(**{**config.model_dump(), "layers": 8, "width": 64})
    model = build_model(plugins.find("models", config.family).build, deep, 0, torch.device("cpu"))
    for block in (model.blocks[0], model.blocks[7]):
        assert block.attention.output.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
        assert block.mlp.down.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
        assert block.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_a_model_is_its_state(model: LanguageModel, config: LanguageModelConfig, tokens: Tensor) -> None:
    state = copy.deepcopy(model.state_dict())
    other = build_model(plugins.find("models", config.family).build, config, 9, torch.device("cpu")).eval()
    other.load_state_dict(state)
    assert torch.equal(model(tokens), other(tokens))
