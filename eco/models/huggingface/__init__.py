"""Language models as folders that `transformers` reads and writes: config.json beside safetensors.

Nothing is downloaded, and `transformers` itself is not needed. Each further file converts one architecture with
`config_from`, `config_to`, `weights_from` and `weights_to`.
"""

from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from eco import plugins
from eco.models.contract import LanguageModel, LanguageModelConfig, build_model
from eco.models.huggingface import folder as files
from eco.models.huggingface import gpt2, llama
from eco.models.instant import InstantModel

BY_TYPE: dict[str, ModuleType] = {"gpt2": gpt2, "llama": llama, "qwen3": llama}
"""Their `model_type` -> the file that converts it."""

BY_FAMILY: dict[str, ModuleType] = {"gpt2": gpt2, "decoder": llama}
"""Our `family` -> the file that converts it."""


def read(folder: Path) -> tuple[LanguageModelConfig, dict[str, Tensor]]:
    """The config and the fp32 weights of a saved model, under our names, as `load_state_dict` takes them.

    Raises:
        ValueError: a file is missing or damaged, or the model has something that ours cannot express.
    """
    theirs = files.read_config(folder)
    kind = theirs.get("model_type")
    if kind not in BY_TYPE:
        raise ValueError(f"{folder}: cannot read models of type {kind!r}; what can be read: {', '.join(BY_TYPE)}")
    try:
        config: LanguageModelConfig = BY_TYPE[kind].config_from(theirs)
        return config, BY_TYPE[kind].weights_from(config, files.read_weights(folder))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def load(folder: Path) -> LanguageModel:
    """The saved model, on the CPU in fp32. Raises ValueError as `read` does."""
    config, weights = read(folder)
    model = build_model(plugins.find("models", config.family).build, config, seed=0, device=torch.device("cpu"))
    assert isinstance(model, LanguageModel)
    for name, parameter in model.named_parameters():
        found, expected = tuple(weights[name].shape), tuple(parameter.shape)
        if found != expected:
            raise ValueError(f"{folder}: {name} has the shape {found}, where config.json asks for {expected}")
    model.load_state_dict(weights)
    return model


def save(model: LanguageModel, folder: Path, end_token: int | None = None) -> None:
    """Writes a folder that `AutoModelForCausalLM.from_pretrained` loads, in fp32.

    end_token: the id after which generation by `transformers` stops.

    Raises:
        ValueError: `transformers` has no architecture for this model.
    """
    family = model.config.family
    if family not in BY_FAMILY:
        raise ValueError(f"transformers has no {family!r} model; what can be saved for it: {', '.join(BY_FAMILY)}")
    if isinstance(model, InstantModel) and model.instant is not None and model.instant.runs(keep=False):
        raise ValueError(
            f"a decoder of instant_mode {model.instant.mode} computes what no Llama of transformers does; train one of "
            "instant_mode checkpoint or off, or take EcoForCausalLM"
        )
    described = BY_FAMILY[family].config_to(model.config) | {"bos_token_id": None, "eos_token_id": end_token}
    state = {name: tensor.detach().float().cpu() for name, tensor in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    files.write_weights(folder, BY_FAMILY[family].weights_to(model.config, state))
    files.write_config(folder, described)
