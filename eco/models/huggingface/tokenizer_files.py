"""The two files from which `AutoTokenizer` of transformers reads Eco's tokenizer; transformers itself is not needed."""

from pathlib import Path
from typing import Any

import tokenizers

from eco.data.tokenizer import Tokenizer
from eco.files import replacing, write_json


def backend(tokenizer: Tokenizer) -> Any:
    """That of the `tokenizers` library, adding nothing around a text."""
    plain = tokenizers.Tokenizer.from_str(tokenizer.content)
    plain.post_processor = None
    return plain


def settings(tokenizer: Tokenizer, context: int) -> dict[str, Any]:
    """What transformers asks beside the backend. It takes nothing in a text for a special token, and pads on the left,
    as generation needs. context: longest sequence in tokens, above which it warns."""
    plain = backend(tokenizer)
    return {
        "eos_token": plain.id_to_token(tokenizer.eos),
        "pad_token": plain.id_to_token(tokenizer.pad),
        "padding_side": "left",
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
    }


def save_tokenizer(tokenizer: Tokenizer, context: int, folder: Path) -> None:
    """Writes them into the folder of a saved model."""
    with replacing(folder / "tokenizer.json") as stream:
        stream.write(backend(tokenizer).to_str())
    described = {"tokenizer_class": "PreTrainedTokenizerFast", **settings(tokenizer, context)}
    write_json(folder / "tokenizer_config.json", described)
