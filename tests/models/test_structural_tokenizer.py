"""A tokenizer with marks and seed words as transformers reads it: the same ids, the same text."""

import pytest

from eco.data.structure import STRUCTURAL_TOKENS
from eco.data.tokenizer import Tokenizer, TokenizerConfig

pytest.importorskip("transformers")

from eco.models.huggingface.tokenizer import as_transformers

TEXT = "<book>Genesis\n<chapter>Genesis 1 <law>\n<verse>Genesis 1:1 In the beginning God created the heaven.\n"


def test_it_has_the_same_ids_and_text() -> None:
    config = TokenizerConfig(vocab_size=1300, layout="structural", seeds=True)
    tokenizer = Tokenizer.train([TEXT * 3], config)
    theirs = as_transformers(tokenizer, 64)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (tokenizer.eos, tokenizer.pad)
    for text in (TEXT, "".join(STRUCTURAL_TOKENS), " <verse> God<eos> <pad><psalm>\n", "<verse><verse", "Lord\u2603"):
        ids = tokenizer.encode(text)
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids, skip_special_tokens=True) == text
    padded = [tokenizer.pad, *tokenizer.encode("<law>x"), tokenizer.eos]
    assert theirs.decode(padded, skip_special_tokens=True) == tokenizer.decode(padded) == "<law>x"
