"""Bulk encoding of the standard library's source: Eco beside `tiktoken` and `tokenizers` with the same merges.

`python -m benchmarks.encoding` prints the rows.
"""

import json
import os
import statistics
from collections.abc import Callable, Sequence

import tokenizers

from benchmarks.measure import Row, alternate, seconds
from eco.data.bulk import fast_encoding
from eco.data.sources import stdlib
from eco.data.sources.contract import SourceOptions
from eco.data.tokenizer import Tokenizer, TokenizerConfig

VOCAB_SIZE = 8192


def rows(rounds: int = 5) -> list[Row]:
    """Medians in MB/s (10^6 bytes of UTF-8) over alternating rounds, every core in use.

    Raises:
        AssertionError: an encoder gave other ids than `tokenizers`; then its speed means nothing.
    """
    texts = list(stdlib.documents("", SourceOptions()))
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    candidates = _encoders(Tokenizer.train(texts, TokenizerConfig(vocab_size=VOCAB_SIZE)))
    _check(candidates, texts[:100])

    def timed(encode: Callable[[Sequence[str]], object]) -> Callable[[], float]:
        return lambda: megabytes / seconds(lambda: encode(texts))

    samples = alternate({name: timed(encode) for name, encode in candidates.items()}, rounds)
    speed = {name: statistics.median(values) for name, values in samples.items()}
    best_peer = max(value for name, value in speed.items() if name != "eco")
    note = f"{megabytes:.1f} MB, vocabulary {VOCAB_SIZE}, {os.cpu_count()} threads, equal ids"
    return [
        Row(f"encode: {name}", value, "MB/s", peer_ratio=value / best_peer if name == "eco" else None, note=note)
        for name, value in speed.items()
    ]


def _encoders(tokenizer: Tokenizer) -> dict[str, Callable[[Sequence[str]], object]]:
    """Each in its fastest setting, with what it yields by itself: arrays, lists, `Encoding` objects."""
    threads = os.cpu_count() or 1
    fast = fast_encoding(json.loads(tokenizer.content))
    assert fast is not None
    slow = tokenizers.Tokenizer.from_str(tokenizer.content)
    return {
        "eco": tokenizer.encode_batch,
        "tiktoken": lambda texts: fast.encode_ordinary_batch(list(texts), num_threads=threads),
        "tokenizers": lambda texts: slow.encode_batch_fast(list(texts), add_special_tokens=False),
    }


def _check(encoders: dict[str, Callable[[Sequence[str]], object]], texts: Sequence[str]) -> None:
    def ids(encoded: object) -> list[list[int]]:
        assert isinstance(encoded, list)
        return [item.ids if isinstance(item, tokenizers.Encoding) else list(item) for item in encoded]

    expected = ids(encoders["tokenizers"](texts))
    for name, encode in encoders.items():
        assert ids(encode(texts)) == expected, f"{name} gives other ids"


if __name__ == "__main__":
    for row in rows():
        ratio = f"{row.peer_ratio:.2f} of the best peer" if row.peer_ratio else ""
        print(f"{row.name:20} {row.value:6.1f} {row.unit}  {ratio:21}  {row.note}")
