"""Shared: a small tokenizer trained on the standard library, and its text."""

import pytest

from eco.data.sources import stdlib
from eco.data.sources.contract import SourceOptions
from eco.data.tokenizer import Tokenizer, TokenizerConfig


@pytest.fixture(scope="session")
def library() -> list[str]:
    return list(stdlib.documents("", SourceOptions()))


@pytest.fixture(scope="session")
def tokenizer(library: list[str]) -> Tokenizer:
    return Tokenizer.train(library[::6], TokenizerConfig(vocab_size=4096))
