"""Concepts of the King James Bible, and where a text speaks of them: labels that say what comes next.

`concepts.toml` lists 49 virtues and doctrines with their words. A language model that foresees which of them the next
sentences touch has learnt something of their subject, and the text itself tells whether it is right.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eco.data.tokenizer import Tokenizer

STRIDE = 16
"""Tokens from one labelled position to the next."""

HORIZON = 64
"""Tokens after a position in which a concept's words are looked for; a multiple of the stride."""

_LEXICON: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))

CONCEPTS = tuple(_LEXICON)
"""Their names, in the order of the labels."""

RATES: tuple[float, ...] = tuple(concept["rate"] for concept in _LEXICON.values())
"""Of each concept, about what share of the positions has it."""

Bits = npt.NDArray[np.uint64]
"""Sets of concepts: bit k is concept k."""

# A letter beyond ASCII keeps a word from ending at it. `<law>` and the like mark what a chapter is and are no words.
_WORD = re.compile(rb"<?(?:[A-Za-z]|[\xc3-\xdf][\x80-\xbf])+")


def _words() -> dict[bytes, int]:
    """Word in small letters -> its concepts as bits."""
    table: dict[bytes, int] = {}
    for bit, concept in enumerate(_LEXICON.values()):
        for word in concept["words"]:
            table[word.encode()] = table.get(word.encode(), 0) | 1 << bit
    return table


_WORDS = _words()


def token_ends(tokens: npt.NDArray[Any], tokenizer: Tokenizer) -> tuple[bytes, npt.NDArray[np.int64]]:
    """The text of `tokens` (n,), and (n,) where in it each of them ends. A special token is a line break."""
    spelling = [tokenizer.decode_bytes([i]) or b"\n" for i in range(tokenizer.vocab_size)]
    lengths = np.array([len(text) for text in spelling], dtype=np.int64)
    return b"".join([spelling[i] for i in tokens.tolist()]), np.cumsum(lengths[tokens])


def occurrences(tokens: npt.NDArray[Any], tokenizer: Tokenizer) -> Bits:
    """(n,): of each of the `tokens` (n,), the concepts of the words that end in it.

    A word is told from the text alone, however the tokenizer cuts it.
    """
    text, ends = token_ends(tokens, tokenizer)
    found = [(m.end(), bits) for m in _WORD.finditer(text) if (bits := _WORDS.get(m[0].lower()))]
    places, concepts = np.array(found, dtype=np.uint64).reshape(-1, 2).T
    masks = np.zeros(len(tokens), dtype=np.uint64)
    np.bitwise_or.at(masks, np.searchsorted(ends, places.astype(np.int64)), concepts)
    return masks


def labels(bits: Bits, first: int, window: int) -> npt.NDArray[np.float32]:
    """(P, C) 0 or 1, P = window // STRIDE: is there an occurrence of concept c in the HORIZON tokens after position
    (p + 1) * STRIDE - 1 of the window that begins at token `first`? They may lie beyond the window; the text may end
    before.

    bits: (n,) of `occurrences`.
    """
    count, reach = window // STRIDE, HORIZON // STRIDE
    ahead = np.zeros((count + reach - 1) * STRIDE, dtype=np.uint64)
    there = bits[first + STRIDE : first + STRIDE + len(ahead)]
    ahead[: len(there)] = there
    blocks = np.bitwise_or.reduce(ahead.reshape(-1, STRIDE), axis=1)
    masks = np.bitwise_or.reduce(np.lib.stride_tricks.sliding_window_view(blocks, reach), axis=1)
    numbers = np.arange(len(CONCEPTS), dtype=np.uint64)
    found: npt.NDArray[np.uint64] = (masks[:, None] >> numbers) & np.uint64(1)
    return found.astype(np.float32)
