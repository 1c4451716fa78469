"""The token store: what it holds, and that it is whole or rebuilt, however many build it and whoever is killed."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from eco.data import store as store_module
from eco.data.corpus import Corpus, scan
from eco.data.store import TokenStore, open_store
from eco.data.tokenizer import Tokenizer


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    (tmp_path / "text").mkdir()
    for number in range(50):
        (tmp_path / "text" / f"{number:02}.txt").write_text(f"document {number}: ☃ {'x' * number}\n", encoding="utf-8")
    return scan((str(tmp_path / "text"),), None, 0.2, set())


def opened(corpus: Corpus, tokenizer: Tokenizer, cache: Path) -> tuple[TokenStore, list[str]]:
    cache.mkdir(exist_ok=True)
    said: list[str] = []
    return open_store(corpus, tokenizer, cache, said.append), said


def test_a_store_holds_every_document_on_its_side(corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    store, _ = opened(corpus, tokenizer, tmp_path / "cache")
    assert store.training.tokens.dtype == np.uint16
    for held_out, part in enumerate((store.training, store.held_out)):
        expected = [text for text, held in corpus.documents() if held == bool(held_out)]
        assert part.tokens[0] == tokenizer.eos
        bounds = part.documents.tolist()
        assert bounds[0] == 1 and bounds[-1] == len(part.tokens) and part.targets == len(part.tokens) - 1
        ids = [part.tokens[start:end].tolist() for start, end in pairwise(bounds)]
        assert all(document[-1] == tokenizer.eos for document in ids)
        assert [tokenizer.decode(document[:-1]) for document in ids] == expected
        assert part.text_bytes == sum(len(text.encode()) for text in expected)


def test_a_store_is_built_once_per_content(corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    first, said = opened(corpus, tokenizer, tmp_path / "cache")
    assert any("encoding" in line for line in said)
    second, said = opened(corpus, tokenizer, tmp_path / "cache")
    assert said == [] and second.folder == first.folder
    (tmp_path / "text" / "more.txt").write_text("more")
    third, said = opened(scan(corpus.locations, None, 0.2, set()), tokenizer, tmp_path / "cache")
    assert said != [] and third.folder != first.folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped token": lambda folder: flip(folder / "training.tokens"),
    "cut boundaries": lambda folder: (folder / "held_out.documents").write_bytes(b"\0" * 8),
    "missing file": lambda folder: (folder / "held_out.tokens").unlink(),
    "cut index": lambda folder: (folder / "index.json").write_text('{"dtype"'),
    "empty index": lambda folder: (folder / "index.json").write_text("{}"),
    "other index": lambda folder: (folder / "index.json").write_text("[]"),
    "wrong count in index": lambda folder: change_index(folder, "text_bytes", {"training": 1, "held_out": 1}),
    "wrong type in index": lambda folder: change_index(folder, "dtype", "uint32"),
}


def change_index(folder: Path, key: str, value: object) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, key: value}))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_store_is_rebuilt(corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path, damage: str) -> None:
    store, _ = opened(corpus, tokenizer, tmp_path / "cache")
    expected = store.training.tokens.tolist()
    DAMAGE[damage](store.folder)
    rebuilt, said = opened(corpus, tokenizer, tmp_path / "cache")
    assert any("damaged" in line for line in said)
    assert rebuilt.training.tokens.tolist() == expected


def test_a_failed_build_leaves_nothing(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "write_json", full)
        with pytest.raises(OSError, match="No space"):
            opened(corpus, tokenizer, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] in ([".lock"], [])
    store, _ = opened(corpus, tokenizer, tmp_path / "cache")
    assert store.training.targets > 0


def test_what_a_killed_build_left_is_swept(corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    store, _ = opened(corpus, tokenizer, tmp_path / "cache")
    leftover = store.folder.with_name(f".{store.folder.name}.building")
    store.folder.rename(leftover)
    (leftover / "junk").write_text("half a file")
    again, _ = opened(corpus, tokenizer, tmp_path / "cache")
    assert not leftover.exists() and not (again.folder / "junk").exists()


def test_the_batch_size_of_encoding_does_not_show(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = opened(corpus, tokenizer, tmp_path / "one")
    monkeypatch.setattr(store_module, "_BATCH", 40)
    small, _ = opened(corpus, tokenizer, tmp_path / "two")
    assert small.training.tokens.tolist() == store.training.tokens.tolist()


def test_two_processes_that_start_together_build_once(tmp_path: Path) -> None:
    """Both prepare the same data into an empty cache: one trains and encodes, both read the same tokens."""
    for number in range(200):
        (tmp_path / f"{number}.py").write_text(f"def f{number}(x):\n    return x + {number}\n" * 50)
    program = (
        "import sys; from pathlib import Path; from eco.data.prepare import *\n"
        f"prepared = prepare(TextConfig(paths={str(tmp_path)!r}), TokenizerConfig(vocab_size=400),\n"
        f"                   Path({str(tmp_path / 'cache')!r}), print)\n"
        "print('sum', int(prepared.stores[0].training.tokens.sum()), prepared.tokenizer.digest)\n"
    )
    command = [sys.executable, "-c", program]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sum(output.count("encoding ") for output in outputs) == 1
    assert sum(output.count("training a tokenizer") for output in outputs) == 1
    assert len({output.splitlines()[-1] for output in outputs}) == 1
