"""From a recipe's `data` and `tokenizer` to training samples: the whole way, top to bottom."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Self

import xxhash
from filelock import FileLock
from pydantic import AfterValidator, BeforeValidator, model_validator

from eco.config import Config, absolute, setting
from eco.data.contract import DataConfig
from eco.data.corpus import Corpus, scan, source_of
from eco.data.facts import PartFacts, part_facts
from eco.data.labelled import LabelledStream, LabelledWindows
from eco.data.labels import Labels, Weighting, document_weights
from eco.data.pieces import PATTERN
from eco.data.seeds import seed_words
from eco.data.store import TokenStore, open_store
from eco.data.stream import Stream, Windows
from eco.data.tokenizer import Tokenizer, TokenizerConfig
from eco.machine import cache_folder

STDLIB = "stdlib:"

_LIBRARY = "library"  # beside `files`, the source whose location is a path


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _absolute(locations: tuple[str, ...]) -> tuple[str, ...]:
    """Paths and globs from the root, so that the run finds them again from another working directory."""
    return tuple(map(_from_root, locations))


def _from_root(location: str) -> str:
    source, rest = source_of(location)
    if source == "files":
        return absolute(rest)
    return f"{source}:{absolute(rest)}" if source == _LIBRARY else location


Paths = Annotated[tuple[str, ...], BeforeValidator(_several), AfterValidator(_absolute)]


class MixEntry(Config):
    """One corpus of a mixture."""

    paths: Paths = setting(..., "Files, folders, globs or `stdlib:`, as in data.paths.", min_length=1)
    weight: float = setting(1.0, "Its share of the training samples, relative to the other entries.", gt=0)


class TextConfig(DataConfig):
    """Which text, how it is split, in what order it is read. Relative paths start at the working directory."""

    paths: Paths = setting(
        (),
        "Files, folders and globs of .py .txt .md .jsonl .jsonl.gz .parquet; `stdlib:` (also when empty) is the "
        "source of Python's standard library, `library:DIR` a folder that `eco data build-corpus` made.",
    )
    mix: tuple[MixEntry, ...] = setting((), "Several corpora with weights, instead of paths.")
    text_field: str | None = setting(None, "Field of a record that holds its text; else text, content or code.")
    held_out: float = setting(0.05, "Share of the documents, by hash, that training never sees.", gt=0, lt=1)
    weighting: Weighting = setting("none", "How documents weigh in the loss: alike, or by their quality and alignment.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.mix and self.paths:
            raise ValueError("paths and mix are both given; move the paths into an entry of mix")
        return self

    def entries(self) -> tuple[MixEntry, ...]:
        """The corpora to read: the mixture, or the one corpus of `paths`."""
        return self.mix or (MixEntry(paths=self.paths or (STDLIB,)),)


@dataclass(frozen=True)
class Report:
    """What became of the corpus.

    bytes: UTF-8 bytes of the distinct documents. The tokens include one end of text per document.
    wanted_vocab_size: what the tokenizer was to have; None for a given one.
    merges: of the tokenizer; with seed words, those that complete them are among them.
    """

    documents: int
    held_out_documents: int
    duplicates: int
    skipped: dict[str, int]
    bytes: int
    training_tokens: int
    held_out_tokens: int
    vocab_size: int
    wanted_vocab_size: int | None
    merges: int

    @property
    def bytes_per_token(self) -> float:
        """Compression: higher is shorter."""
        return self.bytes / (self.training_tokens + self.held_out_tokens)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.documents} documents, {self.held_out_documents} of them held out; {self.bytes / 1e6:.2f} MB"
        left_out = {"duplicate": self.duplicates, **self.skipped}
        if any(left_out.values()):
            yield "left out: " + ", ".join(f"{number} {reason}" for reason, number in left_out.items() if number)
        yield (
            f"{self.training_tokens} tokens to train on, {self.held_out_tokens} held out; "
            f"{self.bytes_per_token:.2f} bytes per token, vocabulary {self.vocab_size}"
        )
        if self.wanted_vocab_size and self.vocab_size < self.wanted_vocab_size:
            yield (
                f"the corpus supports {self.merges} merges, for no further pair of tokens is in it often enough "
                f"(tokenizer.min_frequency); they fill {self.vocab_size} of {self.wanted_vocab_size} tokens"
            )


@dataclass(frozen=True)
class Prepared:
    """Everything that training and measurement need of the data.

    facts: one entry per store, what the sources told of its documents; None where they told nothing.
    """

    tokenizer: Tokenizer
    stores: tuple[TokenStore, ...]
    weights: tuple[float, ...]
    seed: int
    report: Report
    facts: tuple[PartFacts | None, ...]

    def stream(self, window: int) -> Stream:
        """The training samples, `window` targets each."""
        parts = [store.training for store in self.stores]
        return Stream(parts, window, self.tokenizer, self.seed, self.weights)

    def labelled_stream(self, window: int, wanted: frozenset[str], weighting: Weighting) -> Stream | LabelledStream:
        """The same with the labels `wanted` and the weights of the documents; plain where neither is asked for.

        Raises:
            ValueError: the corpus or the tokenizer cannot give them; see `Labels` and `document_weights`.
        """
        if not wanted and weighting == "none":
            return self.stream(window)
        labels = []
        for store, facts in zip(self.stores, self.facts, strict=True):
            table = facts.training if facts else None
            weights = document_weights(store.training, table) if weighting == "metadata" else None
            labels.append(Labels(store.training, table, self.tokenizer, window, wanted, weights))
        return LabelledStream(self.stream(window), labels)

    def labelled_held_out(self, window: int, wanted: frozenset[str]) -> list[LabelledWindows]:
        """The held-out windows with the labels `wanted`."""
        parts = zip(self.held_out(window), self.stores, self.facts, strict=True)
        return [
            LabelledWindows(
                windows, Labels(store.held_out, facts.held_out if facts else None, self.tokenizer, window, wanted)
            )
            for windows, store, facts in parts
        ]

    def held_out(self, window: int) -> list[Windows]:
        """The held-out windows of each store, in the order of the text; each held-out token is a target once."""
        return [Windows(store.held_out, window, self.tokenizer) for store in self.stores]


def prepare(
    data: TextConfig, tokenizer: TokenizerConfig, cache: Path | None = None, say: Callable[[str], None] = lambda _: None
) -> Prepared:
    """Scans the corpora, splits them, trains or loads the tokenizer (on the training side alone), opens the stores.

    Any number of processes may call this at once with the same arguments: one works, the others wait and read.
    cache: folder of tokenizers and stores; `cache_folder()` when None. say: receives what is going on, line by line.

    Raises:
        ValueError: a corpus or tokenizer that is missing, empty or malformed; the message names it.
    """
    cache = cache_folder() if cache is None else cache
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"the cache folder cannot be made: {error}; set ECO_CACHE to one that can") from error
    entries = data.entries()
    seen: set[bytes] = set()
    corpora = [scan(entry.paths, data.text_field, data.held_out, seen) for entry in entries]
    weights = tuple(entry.weight for entry in entries)
    try:
        used = Tokenizer.load(tokenizer.path) if tokenizer.path else _trained(corpora, weights, tokenizer, cache, say)
        stores = tuple(open_store(corpus, used, cache, say) for corpus in corpora)
    except OSError as error:
        raise ValueError(f"cannot write to the cache {cache}: {error}; free space, or set ECO_CACHE") from error
    report = _report(corpora, stores, used, None if tokenizer.path else tokenizer.vocab_size)
    for line in report.lines():
        say(line)
    return Prepared(used, stores, weights, data.seed, report, tuple(map(part_facts, corpora)))


def _trained(
    corpora: list[Corpus], weights: tuple[float, ...], config: TokenizerConfig, cache: Path, say: Callable[[str], None]
) -> Tokenizer:
    """The tokenizer of these corpora and settings, trained if the cache does not have it."""
    settings = config.model_dump(exclude={"layout", "seeds"})
    content: tuple[object, ...] = ([corpus.digest for corpus in corpora], weights, settings, PATTERN)
    if config.layout != "code" or config.seeds:  # the others keep the names that their files have had
        content += (config.first_tokens, seed_words() if config.seeds else [])
    path = cache / f"{xxhash.xxh3_128_hexdigest(repr(content).encode())}.tokenizer.json"
    with FileLock(path.with_suffix(".lock")):
        with suppress(ValueError):  # not there, or damaged
            return Tokenizer.load(path)
        shares = [int(config.sample_bytes * weight / sum(weights)) for weight in weights]
        samples = (corpus.training_sample(share) for corpus, share in zip(corpora, shares, strict=True))
        say(f"training a tokenizer of {config.vocab_size} tokens")
        trained = Tokenizer.train(chain.from_iterable(samples), config)
        trained.save(path)
        return trained


def _report(corpora: list[Corpus], stores: tuple[TokenStore, ...], tokenizer: Tokenizer, wanted: int | None) -> Report:
    skipped: dict[str, int] = {}
    for reason, number in (pair for corpus in corpora for pair in corpus.skipped.items()):
        skipped[reason] = skipped.get(reason, 0) + number
    return Report(
        documents=sum(len(corpus.sizes) for corpus in corpora),
        held_out_documents=sum(int(corpus.held_out.sum()) for corpus in corpora),
        duplicates=sum(corpus.duplicates for corpus in corpora),
        skipped=skipped,
        bytes=sum(int(corpus.sizes.sum()) for corpus in corpora),
        training_tokens=sum(store.training.targets for store in stores),
        held_out_tokens=sum(store.held_out.targets for store in stores),
        vocab_size=tokenizer.vocab_size,
        wanted_vocab_size=wanted,
        merges=tokenizer.merges,
    )
