"""A tokenizer of bytes: what a model writes can then be read off its tokens."""

from collections.abc import Sequence

EOS = 256


class Bytes:
    """One token for each byte, and EOS."""

    eos = EOS
    vocab_size = 257

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return bytes(i for i in ids if i != EOS)
