"""What all tests share: a cache of their own, and a corpus and recipe small enough to train in a second."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import TINY

from eco.cli import main

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test processes share the cores


LONG = ("test_readme.py", "test_prove.py", "test_pipeline.py", "test_validate.py")


def pytest_collection_modifyitems(items):
    """Long files first: at the end, one worker would be alone with them while the other has nothing left."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Token stores and compiled kernels go to a folder that the test run shares and the user does not."""
    folder = Path(os.environ.setdefault("ECO_CACHE", str(tmp_path_factory.getbasetemp().parent / "eco-cache")))
    folder.mkdir(exist_ok=True)


@pytest.fixture(params=["torch", "cpp"])
def path(request, monkeypatch):
    """Each test of a kernel on both of its paths, by name."""
    from eco.kernels import native  # torch looks at OMP_NUM_THREADS as it is imported

    if request.param == "torch":
        monkeypatch.setattr(native, "library", lambda: None)
    elif native.library() is None:
        pytest.skip("no C++ kernels on this machine")
    return request.param


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder of forty small Python files, the same for every test run."""
    folder = tmp_path_factory.mktemp("corpus")
    dice = random.Random(0)
    for number in range(40):
        names = [dice.choice(["alpha", "beta", "gamma", "delta"]) for _ in range(30)]
        lines = [f"def {name}_{i}(x):\n    return x + {dice.randrange(100)}\n" for i, name in enumerate(names)]
        (folder / f"module_{number:02}.py").write_text("\n".join(lines))
    return folder


@pytest.fixture
def tiny(tmp_path, corpus):
    """The path of a recipe whose run takes about a second, on `corpus`."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY + f"data: {{paths: ['{corpus}'], held_out: 0.2}}\n")
    return str(path)


@pytest.fixture
def eco(tmp_path, monkeypatch, capfd):
    """Calls `eco WORDS` in the test's folder; `eco.start` runs it as a process of its own instead."""
    monkeypatch.chdir(tmp_path)

    def start(*words):
        command = [sys.executable, "-m", "eco", *map(str, words)]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(*words):
        capfd.readouterr()
        try:
            status = main(list(map(str, words)))
        except SystemExit as end:
            status = end.code
        return subprocess.CompletedProcess(words, status, *capfd.readouterr())

    run.start = start
    return run
