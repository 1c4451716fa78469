"""`eco pipeline`: its plan, what it does again and what not, failures, signals; its stages' commands are stand-ins."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from filelock import FileLock
from small_library import small_library
from stand_in import StandIn

from eco.cli import main
from eco.flags import parse
from eco.jobs import pipeline

STAGES = [
    "train mvlm-gpt2", "pack mvlm-gpt2", "validate mvlm-gpt2",
    "train simone", "pack simone", "validate simone", "compare",
]  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    return small_library(tmp_path_factory.mktemp("scripture"))


@pytest.fixture
def eco(tmp_path, monkeypatch) -> StandIn:
    made = StandIn(tmp_path / "stand-in")
    monkeypatch.setenv("PYTHONPATH", str(made.folder))
    monkeypatch.chdir(tmp_path)
    return made


@pytest.fixture
def words(library, tmp_path) -> list[str]:
    return [
        "pipeline",
        "simone",
        "--preset",
        "laptop",
        "--data.paths",
        str(library),
        "--output-dir",
        str(tmp_path / "out"),
    ]


def planned(library, folder, words=(), **settings):
    return pipeline.plan(
        "simone", data=str(library), folder=folder, flags=parse(words), **{"preset": "laptop", **settings}
    )


def test_the_plan_of_a_library(library, tmp_path):
    plan = planned(library, tmp_path, ["--steps", "4", "--no-resume", "--prompts=--a", "b c"])
    assert [stage.name for stage in plan.stages] == STAGES
    assert [stage.needs for stage in plan.stages] == [
        (), ("train mvlm-gpt2",), ("pack mvlm-gpt2",),
        (), ("train simone",), ("pack simone",), ("train mvlm-gpt2", "train simone"),
    ]  # fmt: skip
    train, pack, validate = plan.stages[:3]
    run, archive = str(tmp_path / "models" / "mvlm-gpt2"), str(tmp_path / "models_for_download/mvlm-gpt2_model.tar.gz")
    settings = ("--steps=4", "--no-resume", "--prompts=--a", "b c")
    assert train.words == (
        "train", "mvlm-gpt2-laptop", "--data.paths", f"library:{library}", *settings, "--output-dir", run,
    )  # fmt: skip
    assert parse(settings) == parse(["--steps", "4", "--no-resume", "--prompts=--a", "b c"])
    assert pack.words == ("pack", run, "--to", str(tmp_path / "models_for_download"))
    assert validate.words == ("validate", archive)


def test_the_plan_of_some_models_and_of_a_text(library, tmp_path):
    names = [stage.name for stage in planned(library, tmp_path, models=["simone"]).stages]
    assert names == ["train simone", "pack simone", "validate simone"], "nothing to compare"
    source = tmp_path / "text"
    source.mkdir()
    (source / "kjv.txt").write_text("In the beginning\n")
    plan = planned(source, tmp_path / "out")
    assert [stage.name for stage in plan.stages] == ["corpus", *STAGES]
    assert plan.stages[1].needs == plan.stages[4].needs == ("corpus",)
    built = plan.stages[0].words[2]
    assert plan.stages[0].words[:2] == ("data", "build-corpus") and f"library:{built}" in plan.stages[1].words
    (source / "kjv.txt").write_text("In the end\n")
    assert planned(source, tmp_path / "out").digest != plan.digest


REFUSED = [
    (["simon"], "no pipeline 'simon'; did you mean 'simone'"),
    (["simone", "--preset", "laptp"], "has no preset 'laptp'; did you mean 'laptop'"),
    (["simone", "--models", "simone", "mvlm-gtp2"], "no model 'mvlm-gtp2'; did you mean 'mvlm-gpt2'"),
    (["simone", "--stepz", "4"], "unknown setting --stepz.*did you mean 'steps'"),
    (["simone", "--model.policy_rank", "4"], "unknown setting --model.policy_rank"),
    (["simone", "--steps", "many"], "train.steps"),
    (["simone", "--momentum", "0.5"], "unknown setting|is a setting of"),
    (["simone", "--preset"], "--preset on the command line needs a value"),
    (["simone", "--preset", "main", "laptop"], "--preset takes one value"),
    ([], "which pipeline"),
]


@pytest.mark.parametrize(("said", "message"), REFUSED)
def test_what_is_mistyped_is_refused_before_anything_runs(eco, library, capsys, said, message):
    assert main(["pipeline", *said[:1], "--data.paths", str(library), *said[1:]]) == 1
    assert any(re.search(message, line) for line in capsys.readouterr().err.splitlines())
    assert not eco.calls() and not Path("runs").exists()


def test_a_setting_in_a_file_is_refused_where_a_model_lacks_it(eco, words, capsys):
    """On the command line of the training it would be."""
    Path("flags.txt").write_text("--ns-steps 3\n--c3o-credit-enabled\n")
    assert main([*words, "@flags.txt"]) == 1
    assert capsys.readouterr().err and not eco.calls()


def test_without_a_corpus_the_message_has_the_command(eco, capsys):
    assert main(["pipeline", "simone"]) == 1
    assert "eco data build-corpus mvlm_training_dataset_complete --recipe kjv --source" in capsys.readouterr().err


def test_a_dry_run_prints_the_stages(eco, words, capsys):
    assert main([*words, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"to do  {name}" for name in STAGES]
    assert not eco.calls() and not Path("out").exists()
    assert main([*words, "--models", "simone"]) == 0
    capsys.readouterr()
    assert main([*words, "--dry-run", "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert [stage["name"] for stage in stages if stage["done"]] == STAGES[3:6]


def test_the_whole_way(eco, words, capsys, tmp_path):
    assert main(words) == 0
    said = capsys.readouterr().out
    assert eco.names() == STAGES and f"finished: {tmp_path / 'out'}" in said
    assert "    train simone read ''" in said.splitlines(), (
        "standard input is closed, and what a stage says is passed on"
    )
    told = json.loads((tmp_path / "out" / "training_summary.json").read_text())
    assert told["succeeded"] and list(told["stages"]) == STAGES and len(told["corpus"]) == 64
    assert all(kept["state"] == "done" and kept["status"] == 0 for kept in told["stages"].values())
    assert told["files_mb"]["simone"].keys() >= {"status.json", "recipe.yaml"}
    log = Path(told["stages"]["train simone"]["log"])
    assert "train simone read ''" in log.read_text()
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"] == told["stages"], "times of what was done before are kept"
    assert not eco.calls()


def test_what_is_finished_is_not_done_again_and_what_changed_is(eco, words, library, tmp_path):
    out = tmp_path / "out"
    assert main(words) == 0 and eco.names() == STAGES
    assert main(words) == 0 and eco.names() == []
    (out / "models_for_download" / "simone_model.tar.gz").unlink()
    assert main(words) == 0 and eco.names() == ["pack simone", "validate simone"]
    (out / "comparison" / "comparison.json").unlink()
    assert main(words) == 0 and eco.names() == ["compare"]
    shutil.rmtree(out / "models" / "mvlm-gpt2" / "checkpoints")
    assert main(words) == 0 and eco.names() == [*STAGES[:3], "compare"]
    other = [*words, "--steps", "7"]
    assert main([*other, "--models", "simone"]) == 0 and eco.names() == STAGES[3:6]
    assert main(other) == 0 and eco.names() == [*STAGES[:3], "compare"], "compared before with another simone"
    small_library(tmp_path / "changed", seed=1)
    copied = shutil.copytree(library, tmp_path / "moving")
    moving = [str(copied) if word == str(library) else word for word in other]
    assert main(moving) == 0 and eco.names() == STAGES
    shutil.rmtree(copied)
    shutil.copytree(tmp_path / "changed" / "library", copied)
    assert main(moving) == 0 and eco.names() == STAGES


def test_a_model_of_another_corpus_or_command_steps_aside(eco, words, tmp_path):
    run = tmp_path / "out" / "models" / "simone"
    one = [*words, "--models", "simone"]
    assert main(one) == 0 and not (run / "previous").exists()
    (run / "status.json").unlink()
    assert main(one) == 0 and not (run / "previous").exists(), "the same training goes on"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert main([*one, "--steps", "7"]) == 0
    assert (run / "previous" / "1" / "metrics.jsonl").exists()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1, "begun anew"


@pytest.mark.parametrize("order", [3, "make nothing"])
def test_a_failure_ends_the_pipeline(eco, words, tmp_path, capsys, order):
    eco.order(pack_mvlm__gpt2=order)
    assert main(words) == 1
    said = capsys.readouterr().out
    assert eco.names() == STAGES[:2] and f"FAILED: {tmp_path / 'out'}" in said
    assert f"failed after 0 s, exit status {order if order == 3 else 0}" in said
    told = json.loads((tmp_path / "out" / "training_summary.json").read_text())
    assert not told["succeeded"]
    assert [kept["state"] for kept in told["stages"].values()] == ["done", "failed", *["skipped"] * 5]
    eco.order()
    assert main(words) == 0 and eco.names() == STAGES[1:]


def test_with_continue_on_error_what_does_not_need_it_goes_on(eco, words, tmp_path, capsys):
    eco.order(pack_mvlm__gpt2=3)
    assert main([*words, "--continue-on-error"]) == 1
    assert eco.names() == [*STAGES[:2], *STAGES[3:]]
    assert "validate mvlm-gpt2: skipped, as it needs pack mvlm-gpt2" in capsys.readouterr().out
    eco.order(train_simone=-1)
    assert main([*words, "--continue-on-error", "--steps", "5"]) == 1
    assert eco.names() == [*STAGES[:4]], "nothing is left of simone, nor to be compared"
    eco.order()
    assert main([*words, "--steps", "5"]) == 0 and eco.names() == STAGES[3:]


def wait_for_hanging(eco: StandIn, process: subprocess.Popen) -> int:
    """The process of the stage that hangs."""
    path = eco.folder / "hanging"
    while not (path.exists() and path.read_text()):
        assert process.poll() is None, eco.said
        time.sleep(0.02)
    return int(path.read_text())


def gone(pid: int) -> bool:
    """Ended, whoever waits for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_training_that_a_signal_ended_is_not_done(eco, words, tmp_path):
    eco.order(train_simone="hang")
    process = eco.start(*words)
    os.kill(wait_for_hanging(eco, process), signal.SIGTERM)
    assert process.wait(60) == 1 and "train simone: failed after" in eco.said
    assert json.loads((tmp_path / "out" / "models" / "simone" / "status.json").read_text())["state"] == "stopped"
    assert eco.names() == STAGES[:4]
    eco.order()
    assert main(words) == 0 and eco.names() == STAGES[3:], "it goes on where it was stopped"
    assert not (tmp_path / "out" / "models" / "simone" / "previous").exists()


def test_ctrl_c_asks_the_stage_once_and_the_same_call_goes_on(eco, words, tmp_path):
    eco.order(train_simone="hang")
    process = eco.start(*words)
    wait_for_hanging(eco, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130 and "interrupted" in eco.said
    status = json.loads((tmp_path / "out" / "models" / "simone" / "status.json").read_text())
    assert status["state"] == "stopped", "it has saved what it had"
    assert eco.names() == STAGES[:4]
    eco.order()
    assert main(words) == 0 and eco.names() == STAGES[3:]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux to tell the stage")
def test_kill_9_ends_the_stage_too_and_the_same_call_goes_on(eco, words, tmp_path):
    eco.order(train_simone="hang")
    process = eco.start(*words)
    stage = wait_for_hanging(eco, process)
    process.kill()
    process.wait()
    until = time.monotonic() + 30
    while not gone(stage) and time.monotonic() < until:
        time.sleep(0.02)
    assert gone(stage)
    status = json.loads((tmp_path / "out" / "models" / "simone" / "status.json").read_text())
    assert status["state"] == "stopped", "it was asked, and has saved"
    eco.calls()
    eco.order()
    assert main(words) == 0 and eco.names() == STAGES[3:]


def test_a_folder_in_use_is_refused(eco, words, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        assert main(words) == 1
    assert "another `eco pipeline` is at work in" in capsys.readouterr().err and not eco.calls()
