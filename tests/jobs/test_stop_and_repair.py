"""Signals, damaged and foreign checkpoints, a directory in use: what a run survives, and what it refuses."""

import json
import shutil
import signal
import time

import pytest
from test_resume import wait_for_step

import eco as package
from eco.evaluation.held_out import spread
from eco.observe.metrics import read_metrics

LONG = ["--steps", "100000", "--eval-interval", "0", "--save-interval", "0"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_the_step_saves_and_exits_with_0(eco, tiny, tmp_path, number):
    process = eco.start("train", tiny, "--output-dir", "run", *LONG)
    wait_for_step(tmp_path / "run", 3, process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert signal.Signals(number).name in output
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"]
    assert (tmp_path / "run" / "checkpoints" / f"step_{last:08d}").is_dir()
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["step"]) == ("stopped", last)


def test_a_second_signal_exits_at_once(eco, tiny, tmp_path):
    slow_step = ["--batch-size", "64", "--train.accumulation", "4", "--seq-len", "512", "--d-model", "256"]
    words = ["train", tiny, "--output-dir", "run", *slow_step, "--data.held_out", "0.02"]
    process = eco.start(*words, "--eval-interval", "0", "--data.paths", str(package.__path__[0]), "--no-resume")
    log = tmp_path / "run" / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size):  # the first row is written before the first step
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None, "the step ended too fast to test a second signal"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert time.monotonic() - began < 1.0


def test_a_damaged_checkpoint_goes_to_quarantine_and_the_one_before_is_used(tiny, tmp_path):
    run = tmp_path / "run"
    package.train(tiny, {"output_dir": str(run)})
    file = run / "checkpoints" / "step_00000012" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    result = package.resume(run, {"train.steps": 16})
    assert result.step == 16
    assert result.last_row["checkpoint_resume_step"] == 10
    assert result.last_row["checkpoint_quarantine_count"] == 1
    assert (run / "checkpoints" / "quarantine" / "step_00000012" / "REASON.txt").is_file()
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == list(range(17))


def test_a_checkpoint_of_another_shape_is_refused_by_name_and_stays(tiny, tmp_path):
    run = tmp_path / "run"
    package.train(tiny, {"output_dir": str(run)})
    with pytest.raises(ValueError, match=r"width.*32.*64|width.*64.*32"):
        package.train(tiny, {"output_dir": str(run), "model.width": 64})
    assert not (run / "checkpoints" / "quarantine").exists()
    assert package.load(run).step == 12


def test_no_resume_sets_the_earlier_run_aside(tiny, tmp_path):
    run = tmp_path / "run"
    package.train(tiny, {"output_dir": str(run)})
    package.train(tiny, {"output_dir": str(run), "resume": False, "train.steps": 6})
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == list(range(7))
    assert len(read_metrics(run / "previous" / "1" / "metrics.jsonl")) == 13
    assert (run / "previous" / "1" / "checkpoints" / "step_00000012").is_dir()


def test_a_run_set_aside_takes_its_checkpoints_along(tiny, tmp_path):
    settings = {"output_dir": str(tmp_path / "run"), "checkpoint.directory": str(tmp_path / "saved")}
    package.train(tiny, settings | {"train.steps": 4})
    package.train(tiny, settings | {"train.steps": 6, "resume": False})
    assert package.load(tmp_path / "run", 6).step == 6
    assert package.load(tmp_path / "run" / "previous" / "1", "last").step == 4


def test_checkpoints_of_another_run_are_refused_and_stay(tiny, tmp_path):
    settings = {"train.steps": 4, "checkpoint.directory": str(tmp_path / "saved")}
    package.train(tiny, settings | {"output_dir": str(tmp_path / "run")})
    for again in (tiny, str(tmp_path / "run" / "recipe.yaml")):
        for resume in (True, False):
            with pytest.raises(ValueError, match="checkpoints of another run"):
                package.train(again, settings | {"output_dir": str(tmp_path / "other"), "resume": resume})
    assert package.resume(tmp_path / "run", {"train.steps": 5}).step == 5


def test_another_folder_of_checkpoints_is_refused_until_they_are_moved_there(tiny, tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    package.train(tiny, {"output_dir": str(run), "train.steps": 4})
    for resume in (True, False):
        with pytest.raises(ValueError, match=f"are in {run / 'checkpoints'}, not in {elsewhere}"):
            package.train(tiny, {"output_dir": str(run), "checkpoint.directory": str(elsewhere), "resume": resume})
    assert not (run / "previous").exists()
    (run / "checkpoints").rename(elsewhere)
    result = package.resume(run, {"checkpoint.directory": str(elsewhere), "train.steps": 6})
    assert result.last_row["checkpoint_resume_step"] == 4
    assert package.load(run, "last").step == 6


def test_an_outside_checkpoint_folder_keeps_what_is_not_the_runs(tiny, tmp_path):
    run, outside = tmp_path / "run", tmp_path / "outside"
    settings = {"output_dir": str(run), "checkpoint.directory": str(outside), "train.steps": 4}
    package.train(tiny, settings)
    (outside / "notes.txt").write_text("mine")
    package.train(tiny, settings | {"resume": False})
    assert (outside / "notes.txt").read_text() == "mine"
    assert (run / "previous" / "1" / "checkpoints" / "step_00000004").is_dir()
    assert (outside / "step_00000004").is_dir()


def test_a_vocabulary_size_that_is_written_out_fits(tiny, tmp_path):
    run = tmp_path / "run"
    package.train(tiny, {"output_dir": str(run)})
    size = package.load(run).tokenizer.vocab_size
    assert package.resume(run, {"model.vocab_size": size, "train.steps": 13}).step == 13


def test_a_directory_in_use_is_refused(eco, tiny, tmp_path):
    process = eco.start("train", tiny, "--output-dir", "run", *LONG)
    wait_for_step(tmp_path / "run", 1, process)
    refused = eco("train", tiny, "--output-dir", "run")
    process.kill()
    process.communicate()
    assert refused.returncode == 1
    assert f"in use by process {process.pid}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_crash_leaves_a_report(tiny, tmp_path, monkeypatch):
    from eco.training.trainer import Trainer

    def explode(self, batch):
        raise RuntimeError("boom")

    monkeypatch.setattr(Trainer, "_accumulate", explode)
    with pytest.raises(RuntimeError, match="boom"):
        package.train(tiny, {"output_dir": str(tmp_path / "run")})
    (report,) = (tmp_path / "run" / "errors").glob("crash_step_*.json")
    content = json.loads(report.read_text())
    assert (content["exception_type"], content["exception"]) == ("RuntimeError", "boom")
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "crashed"


def test_evaluation_too_keeps_to_the_micro_batch_that_fits(tiny, tmp_path, monkeypatch):
    from eco.jobs import language as job
    from eco.training.trainer import Trainer

    accumulate, sizes = Trainer._accumulate, []

    def cramped(self, batch):
        if self.micro_batch > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return accumulate(self, batch)

    monkeypatch.setattr(Trainer, "_accumulate", cramped)
    monkeypatch.setattr(
        job, "spread", lambda parts, batch, windows: sizes.append(batch) or spread(parts, batch, windows)
    )
    result = package.train(tiny, {"output_dir": str(tmp_path / "run"), "train.steps": 2, "train.eval_every": 1})
    assert result.last_row["micro_batch"] == 1
    assert sizes == [4, 1, 1]


def test_text_that_changed_since_the_start_is_told(tiny, tmp_path, corpus):
    texts, run = tmp_path / "texts", tmp_path / "run"
    shutil.copytree(corpus, texts)
    package.train(tiny, {"output_dir": str(run), "data.paths": [str(texts)], "train.steps": 2})
    assert package.resume(run).step == 2
    assert "data was" not in (run / "logs" / "eco.log").read_text()
    (texts / "new.py").write_text("x = 1\n" * 500)
    package.resume(run)
    assert "data was" in (run / "logs" / "eco.log").read_text()


def test_a_run_without_a_checkpoint_starts_anew_and_keeps_the_old_rows(eco, tiny, tmp_path):
    run = tmp_path / "run"
    package.train(tiny, {"output_dir": str(run)})
    for folder in (run / "checkpoints").glob("step_*"):
        (folder / "manifest.json").write_text("{")
    done = eco("resume", run)
    assert done.returncode == 0, done.stderr
    assert "damaged checkpoints were moved" in done.stdout
    assert "starts anew" in done.stdout
    assert len(read_metrics(run / "previous" / "1" / "metrics.jsonl")) == 13
    assert (run / "previous" / "1" / "checkpoints" / "quarantine").is_dir()


def test_other_kernels_at_resume_are_reported(eco, tiny, tmp_path, monkeypatch):
    run = tmp_path / "run"
    package.train(tiny, {"output_dir": str(run)})
    manifest = run / "integrity_manifest.json"
    content = json.loads(manifest.read_text())
    content["conditions"]["kernels"] = "other"
    manifest.write_text(json.dumps(content))
    assert "kernels was other" in eco("resume", run, "--steps", "13").stdout
    assert read_metrics(run / "metrics.jsonl")[-1]["integrity_ok"] == 0


def test_the_status_of_a_short_session_is_complete(tiny, tmp_path):
    run = tmp_path / "run"
    package.train(tiny, {"output_dir": str(run), "log.every": 100})
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "finished"
    assert status["last_checkpoint"] == "step_00000012"
    assert status["loss_ema"] > 0 and status["tokens_per_s"] > 0
