"""Eco's models as transformers models: our own numbers, whatever the padding; generation, saving, adapters."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_models import SIGMA_SIZES
from torch import Tensor

from eco.data.tokenizer import Tokenizer, TokenizerConfig
from eco.inference import Engine, Sampling
from eco.models import decoder, gpt2, huggingface, sigma, simone, trm
from eco.models.contract import IGNORE, LanguageModel, build_model

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
transformers.logging.disable_progress_bar()

from eco.models.huggingface.causal_lm import EcoForCausalLM  # noqa: E402
from eco.models.huggingface.tokenizer import as_transformers  # noqa: E402

TEXT = ["def double(x):\n    return x + x\n", "for i in range(3):\n    print(i, 'é😀')\n"] * 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXT, TokenizerConfig(vocab_size=270))


def writing(name: str, make, tokenizer: Tokenizer) -> LanguageModel:
    """A model of the tokenizer's vocabulary."""
    sizes = {"vocab_size": tokenizer.vocab_size, "context": 48, "width": 32, "layers": 2, "heads": 4}
    if name == "sigma":
        return make(sigma.Config(**SIGMA_SIZES | {"vocab_size": tokenizer.vocab_size, "context": 48}))
    return make({"decoder": decoder, "gpt2": gpt2}[name].Config(**sizes))


@pytest.fixture(params=["decoder", "gpt2"])
def writer(request: pytest.FixtureRequest, make, tokenizer: Tokenizer) -> LanguageModel:
    """One that transformers has too."""
    return writing(request.param, make, tokenizer)


@pytest.fixture(params=["decoder", "gpt2", "sigma"])
def any_writer(request: pytest.FixtureRequest, make, tokenizer: Tokenizer) -> LanguageModel:
    return writing(request.param, make, tokenizer)


@pytest.fixture
def mask() -> Tensor:
    """(3, 20): whole, padded on the left, padded on both sides."""
    mask = torch.ones(3, 20, dtype=torch.int64)
    mask[1, :6] = mask[2, :3] = mask[2, 15:] = 0
    return mask


def test_logits_and_loss_are_ours(model: LanguageModel, tokens: Tensor) -> None:
    labels = tokens.clone()
    labels[:, :5] = IGNORE
    found = EcoForCausalLM.around(model)(tokens, labels=labels)
    assert torch.equal(found.logits, model(tokens))
    ours = model.training_step({"tokens": tokens[:, :-1].contiguous(), "targets": labels[:, 1:].contiguous()})
    torch.testing.assert_close(found.loss, ours.losses["lm"], atol=1e-6, rtol=0)
    by_count = EcoForCausalLM.around(model)(tokens, labels=labels, num_items_in_batch=90)
    torch.testing.assert_close(by_count.loss, found.loss * 45 / 90)


def test_padding_on_either_side_is_seen_by_no_token(model: LanguageModel, tokens: Tensor, mask: Tensor) -> None:
    wrapped = EcoForCausalLM.around(model)
    logits = wrapped(tokens, attention_mask=mask).logits
    assert logits.isfinite().all()
    other = torch.where(mask.bool(), tokens, (tokens + 1) % 61)
    again = wrapped(other, attention_mask=mask).logits
    for row, real in enumerate(mask.bool()):
        alone = model(tokens[row : row + 1, real])[0]
        torch.testing.assert_close(logits[row, real], alone, atol=1e-5, rtol=0)
        assert torch.equal(logits[row, real], again[row, real])


def test_gradients_of_a_padded_batch_are_those_of_its_rows(make, config, tokens: Tensor, mask: Tensor) -> None:
    padded, alone = make(config), make(config)
    labels = tokens.masked_fill(mask == 0, IGNORE)
    EcoForCausalLM.around(padded)(tokens, attention_mask=mask, labels=labels, num_items_in_batch=1).loss.backward()
    for row, real in zip(tokens, mask.bool(), strict=True):
        F.cross_entropy(alone(row[real][None])[0, :-1], row[real][1:], reduction="sum").backward()
    for (name, found), expected in zip(padded.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-4, rtol=1e-4, msg=name)


def test_a_padded_batch_may_be_longer_than_the_context(make) -> None:
    """Positions count from the first real token, so GPT-2's learned ones suffice."""
    model = make(gpt2.Config(vocab_size=61, context=8, width=32, layers=2, heads=4))
    tokens = torch.arange(12)[None].repeat(2, 1)
    mask = torch.zeros(2, 12, dtype=torch.int64)
    mask[0, 4:] = mask[1, :8] = 1
    logits = EcoForCausalLM.around(model)(tokens, attention_mask=mask).logits
    torch.testing.assert_close(logits[0, 4:], model(tokens[:1, 4:])[0], atol=1e-5, rtol=0)


def test_greedy_generation_is_the_engines(any_writer: LanguageModel, tokenizer: Tokenizer) -> None:
    prompts = ["def f(x", "for", "x = range(3) + i", "print(i)\n    return"]
    theirs = as_transformers(tokenizer, 48)
    batch = theirs(prompts, return_tensors="pt", padding=True)
    assert (batch["attention_mask"][:, 0] == 0).any(), "the test wants left padding"
    wrapped = EcoForCausalLM.around(any_writer, tokenizer)
    found = wrapped.generate(**batch, max_new_tokens=20, do_sample=False)[:, batch["input_ids"].shape[1] :]
    engine = Engine(any_writer, tokenizer)
    for row, (completion,) in zip(
        found, engine.generate(prompts, Sampling(temperature=0, max_new_tokens=20)), strict=True
    ):
        count = len(completion.tokens)
        assert row[:count].tolist() == completion.tokens
        assert set(row[count:].tolist()) <= {tokenizer.pad}


def test_a_model_of_segments_generates_from_prompts_of_one_length(make, tokenizer: Tokenizer) -> None:
    sizes = {"context": 48, "width": 32, "layers": 2, "heads": 4, "segment": 12, "memory_slots": 2}
    model = make(simone.Config(vocab_size=tokenizer.vocab_size, **sizes))
    wrapped, theirs = EcoForCausalLM.around(model, tokenizer), as_transformers(tokenizer, 48)
    ((expected,),) = Engine(model, tokenizer).generate(["def f(x"], Sampling(temperature=0, max_new_tokens=20))
    batch = theirs(["def f(x"], return_tensors="pt")
    found = wrapped.generate(**batch, max_new_tokens=20, do_sample=False)[0, batch["input_ids"].shape[1] :]
    assert found[: len(expected.tokens)].tolist() == expected.tokens
    padded = theirs(["def f(x", "for i in range(3)"], return_tensors="pt", padding=True)
    with pytest.raises(ValueError, match="takes no padding; give prompts of equal length"):
        wrapped.generate(**padded, max_new_tokens=2)


@pytest.mark.parametrize(
    "search", [{"num_beams": 3}, {"use_cache": False}, {"num_beams": 2, "num_return_sequences": 2}]
)
def test_generation_is_that_of_the_architecture_in_transformers(
    writer: LanguageModel, tokenizer: Tokenizer, tmp_path: Path, search: dict
) -> None:
    huggingface.save(writer, tmp_path, end_token=tokenizer.eos)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    batch = as_transformers(tokenizer, 48)(["def", "for i in range("], return_tensors="pt", padding=True)
    asked = {**batch, **search, "max_new_tokens": 12, "do_sample": False, "pad_token_id": tokenizer.pad}
    assert torch.equal(EcoForCausalLM.around(writer, tokenizer).generate(**asked), theirs.generate(**asked))


def test_sampling_draws_from_the_models_distribution(any_writer: LanguageModel, tokenizer: Tokenizer) -> None:
    prompt = torch.tensor([tokenizer.encode("def")])
    probabilities = any_writer(prompt)[0, -1].softmax(-1)
    transformers.set_seed(0)
    drawn = EcoForCausalLM.around(any_writer).generate(
        prompt, max_new_tokens=1, do_sample=True, top_k=0, num_return_sequences=4000
    )[:, -1]
    frequencies = drawn.bincount(minlength=len(probabilities)) / 4000
    assert (frequencies - probabilities).abs().sum() < 0.25  # 270 tokens: the expected distance is about 0.2


def persistent_buffers(model: LanguageModel) -> list[Tensor]:
    return [buffer for name, buffer in model.named_buffers() if name in model.state_dict()]


def test_what_is_saved_comes_back(model: LanguageModel, tokens: Tensor, tmp_path: Path) -> None:
    EcoForCausalLM.around(model).save_pretrained(tmp_path)
    tied = model.config.tied
    stored = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == sum(
        t.numel() for t in [*model.parameters(), *persistent_buffers(model)]
    )
    back, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert isinstance(back, EcoForCausalLM)
    assert (back.get_output_embeddings().weight is back.get_input_embeddings().weight) == tied
    assert back.eco.config == model.config
    with torch.no_grad():
        assert torch.equal(back.eval()(tokens).logits, model(tokens))


def test_weights_that_a_file_lacks_are_drawn(make, tmp_path: Path) -> None:
    EcoForCausalLM.around(make(decoder.Config(vocab_size=61, width=32, layers=1, heads=4))).save_pretrained(tmp_path)
    path, name = tmp_path / "model.safetensors", "backbone.model.blocks.0.attention.qkv.weight"
    save_file({k: v for k, v in load_file(path).items() if k != name}, path, metadata={"format": "pt"})
    back, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"] == {name}
    assert 0.01 < back.get_parameter(name).std() < 0.03


def test_wrapping_changes_nothing_and_draws_nothing(model: LanguageModel) -> None:
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    wrapped = EcoForCausalLM.around(model)
    assert torch.equal(torch.get_rng_state(), state) and not model.training
    assert wrapped.eco is model
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_gradient_checkpointing_gives_the_same_gradients(make, config, tokens: Tensor) -> None:
    gradients = []
    for recompute in (False, True):
        wrapped = EcoForCausalLM.around(make(config)).train()
        if recompute:
            wrapped.activation_checkpointing_enable()
        assert wrapped.eco.gradient_checkpointing == recompute
        with torch.random.fork_rng():
            torch.manual_seed(5)  # a router's jitter
            wrapped(tokens, labels=tokens).loss.backward()
        gradients.append([parameter.grad for parameter in wrapped.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_lora_trains_only_its_adapters(writer: LanguageModel, tokenizer: Tokenizer) -> None:
    prompt = torch.tensor([tokenizer.encode("def double(x")])
    before = copy.deepcopy(writer.state_dict())
    with torch.no_grad():
        base = writer(prompt)
    up = "gate_up" if isinstance(writer, decoder.Decoder) else "up"
    lora = peft.LoraConfig(r=4, target_modules=["qkv", "output", up, "down"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(EcoForCausalLM.around(writer, tokenizer), lora)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 4 * 2 and all("lora_" in name for name in trained)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        adapted(prompt, labels=prompt).loss.backward()
        optimizer.step()
    with torch.no_grad():
        learnt = adapted(prompt).logits
        assert not torch.allclose(learnt, base, atol=1e-2)
        assert adapted.generate(input_ids=prompt, max_new_tokens=4, do_sample=False).shape[1] == prompt.shape[1] + 4
        with adapted.disable_adapter():
            assert torch.equal(adapted(prompt).logits, base)
        merged = adapted.merge_and_unload()
        assert merged.eco is writer
        torch.testing.assert_close(merged(prompt).logits, learnt, atol=1e-4, rtol=0)
    changed = {name for name, tensor in writer.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {tuple(name.split(".")[-2:]) for name in changed} == {
        (layer, "weight") for layer in ("qkv", "output", up, "down")
    }


def test_lora_adapts_ternary_mixers(make, tokenizer: Tokenizer) -> None:
    model = writing("sigma", make, tokenizer)
    prompt = torch.tensor([tokenizer.encode("def double(x")])
    before = copy.deepcopy(model.state_dict())
    base = model(prompt)
    lora = peft.LoraConfig(r=4, target_modules=["input", "output"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(EcoForCausalLM.around(model, tokenizer), lora)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(8):
        losses.append(adapted(prompt, labels=prompt).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.1
    with torch.no_grad():
        assert adapted.generate(input_ids=prompt, max_new_tokens=4, do_sample=False).shape[1] == prompt.shape[1] + 4
        with adapted.disable_adapter():
            assert torch.equal(adapted(prompt).logits, base)
    after = {name: tensor for name, tensor in model.state_dict().items() if "lora_" not in name}
    assert all(torch.equal(tensor, before[name.replace(".base_layer", "")]) for name, tensor in after.items())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"inputs_embeds": torch.zeros(1, 4, 32)}, "takes no inputs_embeds"),
        ({"output_attentions": True}, "takes no output_attentions"),
        ({"past_key_values": transformers.DynamicCache()}, "cannot use a DynamicCache"),
        ({"use_cache": True, "attention_mask": torch.tensor([[1, 1, 1, 0]])}, "padded on the right.*padding_side"),
    ],
)
def test_what_ours_cannot_do_is_refused(make, asked: dict, message: str) -> None:
    wrapped = EcoForCausalLM.around(make(decoder.Config(vocab_size=61, width=32, layers=1, heads=4)))
    with pytest.raises(ValueError, match=message):
        wrapped(torch.zeros(1, 4, dtype=torch.int64), **asked)


def test_a_model_of_puzzles_is_refused() -> None:
    solver = build_model(trm.build, trm.Config(vocab_size=6, length=16, identifiers=3), 0, torch.device("meta"))
    with pytest.raises(ValueError, match="a 'trm' model has no hidden states"):
        EcoForCausalLM.around(solver)


def test_transformers_is_asked_for_only_when_needed() -> None:
    program = """
import sys
import eco
assert "transformers" not in sys.modules
sys.modules["transformers"] = None
for name in ("causal_lm", "tokenizer"):
    try:
        __import__(f"eco.models.huggingface.{name}")
    except ValueError as error:
        assert "pip install 'eco-lm[hf]'" in str(error)
    else:
        raise AssertionError(name)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@settings(max_examples=60, deadline=None)
@given(text=st.text() | st.sampled_from(["<|endoftext|>", "a<|pad|>  b", " é\r\n\t", "<|eos|>\n\n  x"]))
def test_the_tokenizer_encodes_as_ours(tokenizer: Tokenizer, text: str) -> None:
    theirs = as_transformers(tokenizer, 48)
    assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text)) == text


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 260), max_size=30))
def test_the_tokenizer_decodes_as_ours(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert as_transformers(tokenizer, 48).decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)


def test_the_tokenizer_is_saved_with_its_marks(tokenizer: Tokenizer, tmp_path: Path) -> None:
    as_transformers(tokenizer, 48).save_pretrained(tmp_path)
    back = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (back.eos_token_id, back.pad_token_id, back.padding_side) == (tokenizer.eos, tokenizer.pad, "left")
    assert back("<|endoftext|> x")["input_ids"] == tokenizer.encode("<|endoftext|> x")
