"""What measurements of texts share: a tokenizer of bytes."""

import pytest
from byte_tokenizer import Bytes


@pytest.fixture
def byte_tokenizer() -> Bytes:
    return Bytes()
