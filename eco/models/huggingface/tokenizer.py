"""Eco's tokenizer as a tokenizer of `transformers`."""

from typing import Any

from eco.data.tokenizer import Tokenizer
from eco.models.huggingface.tokenizer_files import backend, settings

try:
    from transformers import PreTrainedTokenizerFast
except ImportError as error:
    raise ValueError("a tokenizer of transformers needs transformers; pip install 'eco-lm[hf]'") from error


def as_transformers(tokenizer: Tokenizer, context: int) -> Any:
    """A `PreTrainedTokenizerFast` with the same ids for every text and, special tokens skipped, the same text for ids.

    context: longest sequence in tokens, above which it warns. See `tokenizer_files.settings` for the rest.
    """
    return PreTrainedTokenizerFast(tokenizer_object=backend(tokenizer), **settings(tokenizer, context))
