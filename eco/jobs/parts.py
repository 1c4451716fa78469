"""The parts that several jobs build alike from a recipe: the model, and what a checkpoint must agree with."""

from typing import Any

import torch

from eco.data.tokenizer import Tokenizer
from eco.models.contract import LanguageModel, LanguageModelConfig, build_model
from eco.plugins import find
from eco.recipe import Recipe


def language_model(recipe: Recipe, tokenizer: Tokenizer, device: torch.device) -> LanguageModel:
    """The recipe's model with its initial weights; `vocab_size: 0` becomes the tokenizer's.

    Raises:
        ValueError: the vocabulary is too small for the tokenizer, or the architecture is no language model.
    """
    config = recipe.model
    if not isinstance(config, LanguageModelConfig):
        raise ValueError(f"model.family {config.family} is not a language model")
    if config.vocab_size == 0:
        config = config.model_copy(update={"vocab_size": tokenizer.vocab_size})
    if config.vocab_size < tokenizer.vocab_size:
        raise ValueError(
            f"model.vocab_size is {config.vocab_size}, but the tokenizer has {tokenizer.vocab_size} tokens; "
            "raise it, or leave it at 0 to take the tokenizer's"
        )
    model = build_model(find("models", config.family).build, config, recipe.train.seed, device)
    assert isinstance(model, LanguageModel), "a LanguageModelConfig builds a LanguageModel"
    return model


def fit_of(recipe: Recipe, tokenizer: Tokenizer) -> dict[str, Any]:
    """What must be the same for a saved state to go on under this recipe: architecture, tokenizer, optimizer."""
    model = recipe.model.model_dump(mode="json")
    if isinstance(recipe.model, LanguageModelConfig):
        model["vocab_size"] = recipe.model.vocab_size or tokenizer.vocab_size
    return {
        "model": model,
        "tokenizer": tokenizer.digest,
        "optimizer": recipe.optimizer.name,
        "precision_scaler": recipe.train.precision == "fp16",
    }
