import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eco.observe.run import RunDirectory, RunPaths, existing_run

HOLD = """
import sys, time
from eco.observe.run import RunDirectory
with RunDirectory(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the run directory tmp_path/run."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_opening_creates_the_layout(tmp_path):
    with RunDirectory(tmp_path / "deep" / "run") as run:
        for folder in ("checkpoints", "errors", "samples", "plots", "logs"):
            assert (run.path / folder).is_dir()
        assert run.metrics == run.path / "metrics.jsonl"


def test_a_second_process_is_told_who_holds_it_and_kill_9_frees_it(tmp_path, holder):
    with pytest.raises(ValueError, match=rf"{tmp_path / 'run'} is in use by process {holder.pid} on "):
        RunDirectory(tmp_path / "run")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with RunDirectory(tmp_path / "run") as run:
        owner = json.loads((run.path / ".owner.json").read_text())
        assert owner["pid"] == os.getpid()


def test_one_process_cannot_open_it_twice_and_close_frees_it(tmp_path):
    run = RunDirectory(tmp_path)
    with pytest.raises(ValueError, match="in use"):
        RunDirectory(tmp_path)
    run.close()
    run.close()
    RunDirectory(tmp_path).close()


def test_a_path_that_cannot_be_written_is_named_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ValueError, match=r"cannot write to the run directory .*file/run: .*--output-dir"):
        RunDirectory(tmp_path / "file" / "run")


def test_what_eco_logs_goes_to_the_log_file_while_the_run_is_open(tmp_path):
    with RunDirectory(tmp_path) as run:
        logging.getLogger("eco.train").info("step taken")
    logging.getLogger("eco.train").info("after the end")
    text = (run.logs / "eco.log").read_text()
    assert "INFO eco.train: step taken" in text
    assert "after the end" not in text


def test_only_a_folder_with_a_recipe_is_an_existing_run(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        existing_run(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no recipe\.yaml"):
        existing_run(tmp_path)
    (tmp_path / "recipe.yaml").write_text("{}")
    assert existing_run(str(tmp_path)).path == tmp_path


def test_naming_paths_touches_nothing(tmp_path):
    paths = RunPaths(tmp_path / "absent")
    assert not Path(paths.path).exists()
