"""Seed words: words that must be one token each, whatever the corpus says of them.

The merges that complete them stand behind all trained ones. So the trained merges happen first in every text, exactly
as without seeds, and a further merge only joins what they left apart: no word around a seed is ever cut because of it.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eco.data.bulk import byte_pairs
from eco.data.pieces import BYTE_TO_CHARACTER, token_to_bytes

Merge = tuple[bytes, bytes]


def seed_words() -> list[str]:
    """The words of `seeds.txt`, in its order."""
    lines = Path(__file__).with_name("seeds.txt").read_text(encoding="utf-8").splitlines()
    return [word for line in lines if not line.startswith("#") for word in line.split()]


def with_seeds(model: dict[str, Any], words: Sequence[str], vocab_size: int) -> dict[str, Any]:
    """The trained byte-level BPE `model` of a `tokenizer.json`, with each of `words` and " " + word as one token.

    Where the vocabulary would grow beyond `vocab_size`, the last trained merges make room: a shorter training's.

    Raises:
        ValueError: the words alone need more tokens than `vocab_size`.
    """
    trained = [(token_to_bytes(left), token_to_bytes(right)) for left, right in model["merges"]]
    first = len(model["vocab"]) - len(trained)  # the id of what the first merge makes: each makes one token
    while True:
        further = _completions(trained, words)
        room = vocab_size - first - len(further)
        if len(trained) <= room:
            break
        if room < 0:
            raise ValueError(
                f"tokenizer.vocab_size {vocab_size} has no room for the seed words: they need {first + len(further)} "
                "tokens; raise it, or set tokenizer.seeds to false"
            )
        trained = trained[:room]
    merges = [(_characters(left), _characters(right)) for left, right in trained + further]
    vocabulary = {token: i for token, i in model["vocab"].items() if i < first}
    vocabulary |= {left + right: first + rank for rank, (left, right) in enumerate(merges)}
    return model | {"vocab": vocabulary, "merges": merges}


def _completions(trained: Sequence[Merge], words: Iterable[str]) -> list[Merge]:
    """The merges that, after those of `trained`, make one token of each word, with and without a space before it.

    They join from the end of a word, so that the word with the space shares all but the last of them.
    """
    ranks = {left + right: rank for rank, (left, right) in enumerate(trained)}
    further: list[Merge] = []
    for word in words:
        for piece in (word, " " + word):
            while len(parts := byte_pairs(piece.encode(), ranks)) > 1:
                left, right = parts[-2:]
                ranks[left + right] = len(ranks)
                further.append((left, right))
    return further


def _characters(token: bytes) -> str:
    return "".join(BYTE_TO_CHARACTER[byte] for byte in token)
