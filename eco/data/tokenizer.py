"""A lossless byte-level BPE tokenizer (Sennrich et al., arXiv 1508.07909; bytes as in GPT-2).

The file is the `tokenizer.json` of the `tokenizers` library, which reads and trains it; bulk encoding goes through
`eco.data.bulk`. Marks and seed words: `eco.data.structure`, `eco.data.seeds`.
"""

import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import tiktoken
import tokenizers
import xxhash
from pydantic import model_validator
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from eco.config import Config, LocalPath, setting
from eco.data.bulk import fast_encoding
from eco.data.pieces import PATTERN, token_to_bytes
from eco.data.seeds import seed_words, with_seeds
from eco.data.structure import MARKS, STRUCTURAL_TOKENS, between_marks
from eco.files import replacing

SPECIAL_TOKENS = ("<|endoftext|>", "<|pad|>", "<|bos|>", "<|eos|>", "<|code|>", "<|comment|>", "<|docstring|>")
"""Ids 0 to 6 of a tokenizer trained here with the layout "code"."""

_END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "</s>", "<eos>", "<|eos|>")
_PADDING = ("<|pad|>", "<pad>")

_PROBE = "a" + "".join(map(chr, range(0x800))) + "e\u0301 \u2028\u65e5\U0001f469\u200d\U0001f4bb  x \r\n\t"
"""What a tokenizer that is not lossless changes: all short UTF-8 sequences, a decomposed accent, blanks at the ends."""

Ids = npt.NDArray[np.uint32]


class TokenizerConfig(Config):
    """Which tokenizer: a given file, or one trained on the corpus."""

    path: LocalPath | None = setting(None, "A tokenizer.json to use; else one is trained.", flat="tokenizer")
    vocab_size: int = setting(8192, "Most tokens of a trained vocabulary.", ge=256 + len(SPECIAL_TOKENS))
    min_frequency: int = setting(2, "Occurrences in the sample that a pair needs to become a token.", ge=1)
    sample_bytes: int = setting(16 << 20, "Bytes of training text, at most, that a tokenizer is trained on.", gt=0)
    layout: Literal["code", "structural"] = setting(
        "code", "The first ids of a trained vocabulary; `structural` has marks such as <verse> and <chapter>."
    )
    seeds: bool = setting(False, "Whether the words of eco/data/seeds.txt become one token each.")

    @model_validator(mode="after")
    def _room(self) -> Self:
        least = 256 + len(self.first_tokens)
        if self.vocab_size < least:
            raise ValueError(f"vocab_size is {self.vocab_size}; the layout {self.layout} needs {least} or more")
        return self

    @property
    def first_tokens(self) -> tuple[str, ...]:
        """The tokens of the layout, ids from 0."""
        return STRUCTURAL_TOKENS if self.layout == "structural" else SPECIAL_TOKENS


class Tokenizer:
    """Text <-> ids. Every text round-trips exactly; no text becomes a special token; nothing is added around it.

    eos, pad: the ids of the end of a text and of padding.
    marks: the id of each mark of `eco.data.structure`; empty where the vocabulary has none.
    merges: how many there are.
    """

    def __init__(self, content: str) -> None:
        """From the content of a `tokenizer.json`; see `load`.

        Raises:
            ValueError: not such a file, not byte-level BPE or not lossless, or without a known end-of-text token.
        """
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(content)
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"not a tokenizer file of the `tokenizers` library: {error}") from error
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.content = self._tokenizer.to_str()
        parsed = json.loads(self.content)
        self._token_bytes = _token_bytes(parsed)
        self.merges = len(parsed["model"]["merges"])
        added = {token["content"]: token["id"] for token in parsed["added_tokens"] if not token["special"]}
        self._added = set(added)
        self.marks: dict[str, int] = {mark: added[mark] for mark in MARKS if mark in added}
        ends, pads = self._known(_END_OF_TEXT), self._known(_PADDING)
        if not ends:
            raise ValueError(f"the tokenizer has no end-of-text token; known are {', '.join(_END_OF_TEXT)}")
        self.eos: int = ends[0]
        self.pad: int = pads[0] if pads else self.eos
        if self.decode(self.encode(_PROBE)) != _PROBE:
            raise ValueError(
                "the tokenizer changes texts: by a normalizer, a prefixed space, or a vocabulary that lacks some "
                "bytes; only one that reproduces every text exactly can be used"
            )

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads a `tokenizer.json`.

        Raises:
            ValueError: the file is missing, unreadable or no byte-level BPE tokenizer; the message names it.
        """
        try:
            return cls(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"tokenizer {path}: {error}") from error

    @classmethod
    def train(cls, texts: Iterable[str], config: TokenizerConfig) -> "Tokenizer":
        """Trains on all of `texts`; equal texts give equal files.

        The vocabulary stays below `config.vocab_size` when the texts have no more pairs of the wanted frequency.
        """
        tokenizer = tokenizers.Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=config.vocab_size,
            min_frequency=config.min_frequency,
            special_tokens=list(config.first_tokens),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        if config.layout == "structural":
            texts = (passage for text in texts for passage in between_marks(text))
        tokenizer.train_from_iterator(texts, trainer)
        content = json.loads(tokenizer.to_str())
        for token in content["added_tokens"]:
            token["special"] = token["content"] not in MARKS
        if config.seeds:
            content["model"] = with_seeds(content["model"], seed_words(), config.vocab_size)
        return cls(json.dumps(content))

    def save(self, path: Path) -> None:
        """Writes `tokenizer.json` atomically."""
        with replacing(path) as stream:
            stream.write(self.content)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included: the highest id plus one."""
        return len(self._token_bytes)

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that name the content of the file."""
        return xxhash.xxh3_128_hexdigest(self.content.encode())

    @cached_property
    def token_lengths(self) -> npt.NDArray[np.int64]:
        """(vocab_size,) the number of text bytes of each id; 0 for special tokens."""
        return np.array([len(token) for token in self._token_bytes], dtype=np.int64)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, and of nothing else.

        Raises:
            UnicodeEncodeError (a ValueError): a lone surrogate, which no UTF-8 text can hold.
        """
        text.encode()  # the library would report a lone surrogate as a wrong type
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[Ids]:
        """The ids of each text, as `encode` gives them, on `threads` threads (all cores when None)."""
        if self._fast is None:
            for text in texts:
                text.encode()  # as in `encode`
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            return list(pool.map(self._encode_fast, texts))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens have none, and bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of `ids`, which need not be whole characters.

        Raises:
            IndexError: an id below 0 or not below `vocab_size`.
        """
        ids = list(ids)
        if min(ids, default=0) < 0:
            raise IndexError(f"token id {min(ids)} is negative")
        return b"".join([self._token_bytes[i] for i in ids])

    @cached_property
    def _fast(self) -> tiktoken.Encoding | None:
        return fast_encoding(json.loads(self.content))

    def _encode_fast(self, text: str) -> Ids:
        assert self._fast is not None
        return self._fast.encode_to_numpy(text, allowed_special=self._added, disallowed_special=())

    def _known(self, names: Iterable[str]) -> list[int]:
        """The ids of those of `names` that are in the vocabulary, in their order."""
        return [i for name in names if (i := self._tokenizer.token_to_id(name)) is not None]


def _token_bytes(content: dict[str, Any]) -> list[bytes]:
    """The bytes of each id, b"" for special tokens and unused ids.

    Raises:
        ValueError: the vocabulary is not byte-level BPE.
    """
    if content["model"]["type"] != "BPE" or '"ByteLevel"' not in json.dumps(content["decoder"]):
        raise ValueError("not a byte-level BPE tokenizer; only these reproduce every text exactly")
    added = {token["id"]: token for token in content["added_tokens"]}
    vocabulary = {i: token for token, i in content["model"]["vocab"].items() if i not in added}
    table = [b""] * (max([*added, *vocabulary]) + 1)
    for i, token in vocabulary.items():
        try:
            table[i] = token_to_bytes(token)
        except KeyError as error:
            raise ValueError(f"token {token!r} (id {i}) does not spell bytes, so this is not byte-level BPE") from error
    for i, token in added.items():
        table[i] = b"" if token["special"] else token["content"].encode()
    return table
