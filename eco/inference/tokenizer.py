"""What generation asks of a tokenizer."""

from collections.abc import Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """Lossless: `decode_bytes` of several tokens is the concatenation of what each of them stands for."""

    @property
    def eos(self) -> int:
        """The token that ends a document; it stands for no text."""
        ...

    @property
    def vocab_size(self) -> int:
        """How many token ids there are."""
        ...

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without EOS."""
        ...

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes that the tokens stand for; a single token may end inside a UTF-8 character."""
        ...
