"""The promise: kill -9 at any step, start again, and the losses are bit-identical to the run that was never stopped."""

import signal
import time

import pytest
from safetensors.torch import load_file

import eco as package
from eco.observe.metrics import read_metrics

STEPS = 24
HARD = {  # everything that carries state
    "train.steps": STEPS,
    "train.accumulation": 2,
    "train.ema_decay": 0.9,
    "model.dropout": 0.1,
    "checkpoint.every": 5,
}


def flags(settings):
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


def losses(run):
    return [(row["step"], row["loss"], row.get("val_loss")) for row in read_metrics(run / "metrics.jsonl")[1:]]


def final_tensors(run, step=STEPS):
    folder = run / "checkpoints" / f"step_{step:08d}"
    return {
        f"{file.stem}/{name}": tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def assert_equal_runs(one, other):
    assert losses(one) == losses(other)
    first, second = final_tensors(one), final_tensors(other)
    assert first.keys() == second.keys()
    assert any(name.startswith("optimizer/") for name in first)
    assert any(name.startswith("trainer/") for name in first), "the averaged weights are saved"
    assert [name for name in first if not first[name].equal(second[name])] == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus):
    """The run that was never stopped, for each optimizer."""
    from small_run import TINY

    runs = {}

    def get(optimizer):
        if optimizer not in runs:
            folder = tmp_path_factory.mktemp(optimizer)
            recipe = folder / "tiny.yaml"
            recipe.write_text(TINY + f"data: {{paths: ['{corpus}'], held_out: 0.2}}\n")
            settings = HARD | {"optimizer.name": optimizer, "output_dir": str(folder / "run")}
            package.train(str(recipe), settings)
            runs[optimizer] = folder / "run"
        return runs[optimizer]

    return get


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_killed_run_goes_on_bit_identically(eco, tiny, tmp_path, whole, optimizer):
    run = tmp_path / "run"
    words = ["train", tiny, *flags(HARD | {"optimizer.name": optimizer}), "--output-dir", "run"]
    start_and_kill(eco, words, run)
    again = eco(*words, "--num-workers", "3")
    assert again.returncode == 0, again.stderr
    rows = read_metrics(run / "metrics.jsonl")
    assert rows[-1]["checkpoint_resume_step"] >= 5
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    assert_equal_runs(whole(optimizer), run)


def test_stopping_by_signal_and_resuming_with_other_workers_changes_nothing(eco, tiny, tmp_path, whole):
    run = tmp_path / "run"
    process = eco.start("train", tiny, *flags(HARD), "--output-dir", "run", "--num-workers", "0")
    wait_for_step(run, 3, process)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    stopped_at = read_metrics(run / "metrics.jsonl")[-1]["step"]
    assert 3 <= stopped_at < STEPS
    package.resume(run, {"data.workers": 2})
    assert_equal_runs(whole("muon"), run)


def start_and_kill(eco, words, run):
    """Starts a run of `STEPS` steps as a process of its own and kills it in the middle."""
    process = eco.start(*words)
    wait_for_step(run, 13, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (run / "checkpoints" / f"step_{STEPS:08d}").exists(), "the kill came too late to mean anything"


def wait_for_step(run, step, process, seconds=120):
    """Returns once the run's metrics have reached `step`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        try:
            rows = read_metrics(run / "metrics.jsonl")
        except ValueError:
            rows = []
        if rows and rows[-1]["step"] >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step} after {seconds} s")
