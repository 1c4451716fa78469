"""`eco trace` on a run: the file that it writes, and what it says when asked for what is not there."""

import json

import pytest


@pytest.fixture
def run(eco, tiny):
    done = eco("train", tiny, "--output-dir", "run", "--steps", "2")
    assert done.returncode == 0, done.stderr
    return "run"


def test_a_run_is_traced(eco, run, tmp_path):
    done = eco("trace", run, "--text", "def alpha(x):", "--out", "t.jsonl", "--layers", "1", "--top", "2")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert "".join(row["text"] for row in rows) == "def alpha(x):"
    assert f"t.jsonl: {len(rows)} tokens" in done.stdout
    assert all(set(row["layers"]) == {"1"} and len(row["layers"]["1"]["attended"]) <= 2 for row in rows)
    (tmp_path / "text.txt").write_text("def alpha(x):")
    assert eco("trace", run, "--file", "text.txt", "--out", "new/folder/t.jsonl").returncode == 0
    assert len((tmp_path / "new" / "folder" / "t.jsonl").read_text().splitlines()) == len(rows)
    for words, message in [
        ((), "either --text TEXT or --file FILE"),
        (("--file", "missing.txt"), "missing.txt"),
        (("--text", "a", "--layers", "x"), "numbers with commas"),
        (("--text", "a", "--layers", "7"), "layer 7 cannot be traced; there is: 0, 1"),
    ]:
        done = eco("trace", run, *words)
        assert done.returncode == 1 and message in done.stderr, done.stderr
