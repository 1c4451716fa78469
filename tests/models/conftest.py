"""Models of `small_models`, their weights moved away from zero biases and unit norms."""

from collections.abc import Callable, Iterator

import pytest
import torch
from small_models import CONFIGS, VOCABULARY
from torch import Tensor

from eco import plugins
from eco.models.contract import LanguageModel, LanguageModelConfig, build_model

Make = Callable[..., LanguageModel]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make() -> Make:
    """make(config, seed) is a model in evaluation mode with weights large enough that every part of it matters."""

    def made(config: LanguageModelConfig, seed: int = 0) -> LanguageModel:
        model = build_model(plugins.find("models", config.family).build, config, seed, torch.device("cpu"))
        assert isinstance(model, LanguageModel)
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        return model.eval()

    return made


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> LanguageModelConfig:
    return CONFIGS[request.param]


@pytest.fixture
def model(config: LanguageModelConfig, make: Make) -> LanguageModel:
    return make(config)


@pytest.fixture
def tokens() -> Tensor:
    """(3, 20) int64."""
    return torch.randint(0, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(7))
