"""Bulk encoding: the same merges in `tiktoken`, about five times the speed of `tokenizers`, the same ids.

`tokenizers` merges the pair of tokens that stands first in its list of merges; `tiktoken` merges the pair whose joined
bytes have the lowest id. The two agree whenever every token comes from one merge, ids rise along the list, and the
lower-ranked merges alone take each token's bytes to exactly the two halves that its merge joins. (Proof: both apply
the lowest candidate first, leftmost first, so inside the bytes of a token that is about to be made, nothing but
lower-ranked merges has happened, and they led to those two halves.) `fast_encoding` checks the three conditions.
"""

from itertools import pairwise
from typing import Any

import tiktoken

from eco.data.pieces import BYTE_TO_CHARACTER, PATTERN, token_to_bytes

Ranks = dict[bytes, int]


def pre_tokenizer() -> dict[str, Any]:
    """The pre-tokenizer of the tokenizers that this package trains, as `tokenizers` writes it."""
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, byte_level]}


def fast_encoding(content: dict[str, Any]) -> tiktoken.Encoding | None:
    """The `tiktoken` twin of a tokenizer file, or None where equal ids are not certain.

    content: the parsed `tokenizer.json`.
    """
    model = content["model"]
    plain = (
        content["normalizer"] is None
        and content["pre_tokenizer"] == pre_tokenizer()
        and all(token["special"] for token in content["added_tokens"])
        and not any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
    )
    ranks = _ranks(model["vocab"], model["merges"]) if plain else None
    if ranks is None:
        return None
    # The special tokens are given only because an empty set of them makes tiktoken search at every character.
    special = {token["content"]: token["id"] for token in content["added_tokens"]}
    return tiktoken.Encoding("eco", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)


def _ranks(vocabulary: dict[str, int], merges: list[list[str]]) -> Ranks | None:
    """Token bytes -> id, ascending in the order of the merges; None where one of the three conditions fails."""
    if any(character not in vocabulary for character in BYTE_TO_CHARACTER):
        return None
    ranks = {token_to_bytes(character): vocabulary[character] for character in BYTE_TO_CHARACTER}
    last = -1
    for left, right in merges:
        token, rank = token_to_bytes(left + right), vocabulary[left + right]
        halves = [token_to_bytes(left), token_to_bytes(right)]
        if rank <= last or token in ranks or _merge(token, ranks) != halves:
            return None
        ranks[token] = last = rank
    return ranks


def _merge(token: bytes, ranks: Ranks) -> list[bytes]:
    """Byte-pair encoding in plain Python: joins the lowest-ranked pair, leftmost first, until none is left."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 1:
        pairs = [ranks.get(a + b) for a, b in pairwise(parts)]
        known = [(rank, i) for i, rank in enumerate(pairs) if rank is not None]
        if not known:
            break
        _, i = min(known)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts
