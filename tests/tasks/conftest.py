"""What the tests of published sets share."""

import json

import pytest

from eco.sandbox import Sandbox


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as opened:
        yield opened


@pytest.fixture
def written(tmp_path):
    """Writes rows to a file of JSON lines, and gives its path."""

    def write(*rows):
        path = tmp_path / "set.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write
