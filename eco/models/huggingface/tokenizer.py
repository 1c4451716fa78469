"""Eco's tokenizer as a tokenizer of `transformers`."""

from typing import Any

import tokenizers

from eco.data.tokenizer import Tokenizer

try:
    from transformers import PreTrainedTokenizerFast
except ImportError as error:
    raise ValueError("a tokenizer of transformers needs transformers; pip install 'eco-lm[hf]'") from error


def as_transformers(tokenizer: Tokenizer, context: int) -> Any:
    """A `PreTrainedTokenizerFast` with the same ids for every text and, special tokens skipped, the same text for ids.

    It adds nothing around a text, takes nothing in it for a special token, and pads on the left, as generation needs.
    context: longest sequence in tokens, above which it warns.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer.content)
    backend.post_processor = None
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=backend.id_to_token(tokenizer.eos),
        pad_token=backend.id_to_token(tokenizer.pad),
        padding_side="left",
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        model_max_length=context,
    )
