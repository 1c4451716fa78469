import json
import platform
import subprocess
import sys

import torch

from eco.observe.environment import environment, installed_version


def test_it_tells_where_the_run_ran():
    content = environment()
    assert json.loads(json.dumps(content, allow_nan=False))
    assert content["python"] == platform.python_version()
    assert content["packages"]["torch"] == torch.__version__.split("+")[0] or torch.__version__
    assert content["machine"]["cores"] >= 1
    assert content["settings"]["threads"] == torch.get_num_threads()
    assert content["argv"] == sys.argv


def test_the_commit_is_that_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert environment()["git_commit"] is None

    def git(*words):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    assert environment()["git_commit"] == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("2")
    assert environment()["git_commit"] == git("rev-parse", "HEAD") + "-dirty"


def test_a_package_that_is_not_there_has_no_version():
    assert installed_version("no-such-distribution") is None
