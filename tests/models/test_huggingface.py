"""The folders of `transformers`: the same logits and gradients on both sides, and clear refusals."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from small_models import TRANSFORMERS
from torch import Tensor

from eco.models import decoder, gpt2, huggingface
from eco.models.contract import LanguageModel, LanguageModelConfig

transformers = pytest.importorskip("transformers")
transformers.logging.disable_progress_bar()


def theirs_from(folder: Path):
    """Their model, and a complaint if a weight was missing or left over."""
    found, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    return found.eval()


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture(params=TRANSFORMERS)
def config(request: pytest.FixtureRequest) -> LanguageModelConfig:
    """What transformers knows too."""
    return TRANSFORMERS[request.param]


@pytest.fixture
def saved(model: LanguageModel, tmp_path: Path) -> Path:
    huggingface.save(model, tmp_path / "ours", end_token=3)
    return tmp_path / "ours"


def test_what_we_save_they_load(model: LanguageModel, saved: Path, tokens: Tensor) -> None:
    theirs = theirs_from(saved)
    assert theirs.config.eos_token_id == 3
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), atol=1e-4, rtol=0)


def test_what_they_save_we_load(model: LanguageModel, saved: Path, tokens: Tensor, tmp_path: Path) -> None:
    theirs = theirs_from(saved)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1, "the test wants shards"
    ours = huggingface.load(tmp_path / "theirs").eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)


def test_a_saved_model_comes_back_as_it_was(model: LanguageModel, saved: Path, tokens: Tensor) -> None:
    back = huggingface.load(saved).eval()
    spelled_out = {"kv_heads", "feed_forward"}  # 0 came back as the number that it stands for
    if isinstance(model.config, gpt2.Config):
        spelled_out |= {"attention_bias"}  # theirs always has biases
    assert back.config.model_dump(exclude=spelled_out) == model.config.model_dump(exclude=spelled_out)
    with torch.no_grad():
        assert torch.equal(back(tokens), model(tokens))


def test_gradients_agree(model: LanguageModel, config: LanguageModelConfig, saved: Path, tokens: Tensor) -> None:
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    theirs = theirs_from(saved)
    F.cross_entropy(theirs(inputs).logits.flatten(0, 1), targets.flatten()).backward()
    model.training_step({"tokens": inputs, "targets": targets}).losses["lm"].backward()
    state = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    ours = huggingface.BY_FAMILY[config.family].weights_to(config, state)
    for name, parameter in theirs.named_parameters():
        if isinstance(config, gpt2.Config) and not config.attention_bias and "attn" in name and name.endswith("bias"):
            continue  # a zero that ours does not train
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_published_gpt2_files_are_read(make, tmp_path: Path, tokens: Tensor) -> None:
    """They carry no prefix, hold the causal masks, and may be of half precision."""
    model = make(gpt2.Config(vocab_size=61, context=24, width=32, layers=2, heads=4))
    huggingface.save(model, tmp_path)
    ours = load_file(tmp_path / "model.safetensors")
    weights = {name.removeprefix("transformer."): tensor.half() for name, tensor in ours.items()}
    weights["h.0.attn.bias"] = torch.ones(1, 1, 24, 24)
    weights["lm_head.weight"] = weights["wte.weight"].clone()
    save_file(weights, tmp_path / "model.safetensors")
    back = huggingface.load(tmp_path).eval()
    assert {p.dtype for p in back.parameters()} == {torch.float32}
    torch.testing.assert_close(back(tokens), model(tokens), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bloom"}, "cannot read models of type 'bloom'.*gpt2, llama, qwen3"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "scales the rotary positions .'yarn'"),
        ({"hidden_act": "gelu"}, "sets hidden_act to 'gelu'; supported: 'silu'"),
        ({"head_dim": 16}, "sets head_dim to 16"),
        ({"num_hidden_layers": 3}, "the weights lack model.layers.2.input_layernorm.weight"),
        ({"num_hidden_layers": 1}, "does not account for: model.layers.1.input_layernorm.weight"),
        ({"intermediate_size": 64}, "blocks.0.mlp.gate_up.weight has the shape .256, 32., where .* .128, 32."),
    ],
)
def test_models_that_ours_cannot_express_are_refused(make, tmp_path: Path, changes: dict, message: str) -> None:
    huggingface.save(make(decoder.Config(vocab_size=61, width=32, layers=2, heads=4, feed_forward=128)), tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        huggingface.load(tmp_path)


def test_broken_folders_are_refused(make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        huggingface.load(tmp_path)
    huggingface.save(make(decoder.Config(vocab_size=61, width=32, layers=1, heads=4)), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read"):
        huggingface.load(tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match=r"there is no model\.safetensors"):
        huggingface.load(tmp_path)


def test_a_model_that_theirs_cannot_express_is_refused(make, tmp_path: Path) -> None:
    odd = decoder.Config(vocab_size=61, width=32, layers=1, heads=4, qk_norm=True, mlp_bias=True)
    with pytest.raises(ValueError, match="both qk_norm and mlp_bias"):
        huggingface.save(make(odd), tmp_path / "odd")
    assert not (tmp_path / "odd" / "config.json").exists()
