"""A run's language model and tokenizer as those of `transformers`, for TRL, PEFT and `generate`."""

from pathlib import Path
from typing import Any

from eco.jobs.load import load_language
from eco.models.huggingface.causal_lm import EcoForCausalLM
from eco.models.huggingface.tokenizer import as_transformers


def from_run(run: str | Path, checkpoint: str | int = "best") -> tuple[EcoForCausalLM, Any]:
    """The model (`EcoForCausalLM`, in evaluation mode) and the tokenizer (`PreTrainedTokenizerFast`) of a run.

    Raises:
        ValueError: see `load_language`; or transformers is not installed.
    """
    trained = load_language(run, checkpoint)
    model = EcoForCausalLM.around(trained.model, trained.tokenizer)
    return model, as_transformers(trained.tokenizer, trained.model.config.context)
