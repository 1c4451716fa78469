"""Checkpoints: they survive kills, damage and full disks, keep what they should, and say what does not fit."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from eco.optim import adamw, muon
from eco.training import checkpoint
from eco.training.checkpoint import Checkpoints
from eco.training.manifest import Damaged

FIT = {"model": {"family": "decoder", "width": 8, "layers": 2}, "optimizer": "adamw"}


def parts(step: int) -> dict[str, Any]:
    return {"model": {"weight": torch.full((64, 64), float(step))}, "trainer": {"step": step, "loss": float("inf")}}


def saved(directory: Path, *steps: int, keep: int = 3, best: int | None = None) -> Checkpoints:
    checkpoints = Checkpoints(directory, keep)
    for step in steps:
        checkpoints.save(step, parts(step), fit=FIT, best=step == best)
    return checkpoints


def steps_of(checkpoints: Checkpoints) -> list[int]:
    return [entry.step for entry in checkpoints.entries()]


def flip_a_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("module", [adamw, muon])
def test_a_model_and_its_optimizer_come_back_bit_by_bit(tmp_path: Path, module: Any) -> None:
    def network() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.LayerNorm(16), torch.nn.Linear(16, 8))

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for step in range(3):
            optimizer.zero_grad()
            model(torch.randn(4, 8, generator=torch.Generator().manual_seed(step))).square().mean().backward()
            optimizer.step()

    model = network()
    optimizer = module.build(module.Config(), model)
    train(model, optimizer)
    Checkpoints(tmp_path).save(3, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    other = network()
    restored = module.build(module.Config(), other)
    loaded = Checkpoints(tmp_path).load_newest()
    assert loaded is not None and loaded.step == 3
    other.load_state_dict(loaded.parts["model"])
    restored.load_state_dict(loaded.parts["optimizer"])
    train(model, optimizer)
    train(other, restored)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    assert Checkpoints(tmp_path).verify(loaded.path) == [], "training on loaded state must not write into the file"


def test_the_files_are_safetensors_and_json(tmp_path: Path) -> None:
    path = saved(tmp_path, 130).entries()[0].path
    assert path.name == "step_00000130"
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "model.safetensors", "state.json"]
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["step"] == 130
    assert {file["name"] for file in manifest["files"]} == {"model.safetensors", "state.json"}
    assert not (tmp_path / "best.json").exists()


def test_a_kill_before_the_new_best_is_visible_does_not_leave_the_old_one_as_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = saved(tmp_path, 1, best=1)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "_move_into_place", killed)
        checkpoints.save(2, parts(2), fit=FIT, best=True)
    again = Checkpoints(tmp_path)
    loaded = again.load_newest(FIT)
    assert loaded is not None and loaded.step == 1, "the resumed run comes by step 2 once more"
    assert again.best() is None
    again.save(2, parts(2), fit=FIT, best=True)
    best = again.best()
    assert best is not None and best.step == 2


def test_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2, 3, 4, 5, keep=2, best=2)
    assert steps_of(checkpoints) == [2, 4, 5]
    best = checkpoints.best()
    assert best is not None and best.step == 2
    checkpoints.save(6, parts(6), best=True)
    assert steps_of(checkpoints) == [5, 6], "the one that was best before is an ordinary one now"
    assert saved(tmp_path, 7, 8, 9, keep=1).best() is not None


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    checkpoints.save(2, parts(99), fit=FIT)
    loaded = checkpoints.load_newest(FIT)
    assert loaded is not None and loaded.step == 2 and loaded.parts["trainer"]["step"] == 99
    assert steps_of(checkpoints) == [1, 2] and not list(tmp_path.glob(".*"))


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize(
    "harm",
    [truncate, Path.unlink, lambda path: flip_a_byte(path, 20), lambda path: flip_a_byte(path, -20)],
    ids=["truncated", "missing", "flipped at the front", "flipped at the end"],
)
def test_damage_is_found_and_the_one_before_is_used(tmp_path: Path, name: str, harm: Callable[[Path], None]) -> None:
    checkpoints = saved(tmp_path, 1, 2, 3)
    newest = checkpoints.entries()[-1].path
    assert checkpoints.verify(newest) == []
    harm(newest / name)
    assert len(checkpoints.verify(newest)) == 1 and name in checkpoints.verify(newest)[0]
    with pytest.raises(Damaged, match=name):
        checkpoints.load(newest, FIT)
    loaded = checkpoints.load_newest(FIT)
    assert loaded is not None and loaded.step == 2 and checkpoints.quarantined == 1
    assert name in (tmp_path / "quarantine" / "step_00000003" / "REASON.txt").read_text()
    checkpoints.load_newest(FIT)
    assert checkpoints.quarantined == 0
    checkpoints.save(3, parts(3), fit=FIT)
    assert steps_of(checkpoints) == [1, 2, 3]


def test_a_stray_file_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    (tmp_path / "step_00000002").touch()
    assert steps_of(checkpoints) == [1]


def test_nothing_sound_is_left(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    for entry in checkpoints.entries():
        truncate(entry.path / "model.safetensors")
    assert checkpoints.load_newest(FIT) is None and checkpoints.quarantined == 2


def test_a_checkpoint_that_does_not_fit_is_an_error_that_names_the_difference(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    other = {"model": {"family": "decoder", "width": 16, "layers": 2}, "optimizer": "muon"}
    with pytest.raises(ValueError, match=r"model\.width is 8 in the checkpoint and 16 .* optimizer is adamw") as caught:
        checkpoints.load_newest(other)
    assert not isinstance(caught.value, Damaged) and "layers" not in str(caught.value)
    assert steps_of(checkpoints) == [1] and not (tmp_path / "quarantine").exists()
    loaded = checkpoints.load(checkpoints.entries()[0].path)
    assert loaded.step == 1, "who asks for no fit gets it"


def test_a_later_format_is_refused_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("eco.training.manifest.FORMAT", 2)
        checkpoints = saved(tmp_path, 1)
    with pytest.raises(ValueError, match="format 2"):
        checkpoints.load_newest(FIT)
    assert steps_of(checkpoints) == [1]


def test_foreign_things_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "step_final").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints = saved(tmp_path, 1, 2, 3, 4, keep=1)
    assert steps_of(checkpoints) == [4]
    assert (tmp_path / "step_final").is_dir() and (tmp_path / "notes.txt").is_file()
    with pytest.raises(ValueError, match="there is: step_00000004"):
        checkpoints.load(tmp_path / "step_00000007")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["system", "safetensors"],
)
def test_a_full_disk_leaves_the_last_good_one_and_nothing_partial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    checkpoints = saved(tmp_path, 1)

    def half_a_file(tensors: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", half_a_file)
        with pytest.raises(OSError, match=r"disk is full.*step 2.*free some space") as caught:
            checkpoints.save(2, parts(2), fit=FIT)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000001"]
    loaded = checkpoints.load_newest(FIT)
    assert loaded is not None and loaded.step == 1
    checkpoints.save(2, parts(2), fit=FIT)
    assert steps_of(checkpoints) == [1, 2]


WRITERS = """
import os, sys, torch
from pathlib import Path
from eco.training.checkpoint import Checkpoints

torch.set_num_threads(1)
checkpoints = Checkpoints(Path(sys.argv[1]), keep=2)

def write_until_killed(step):
    print(os.getpid(), flush=True)
    while True:
        step += 1
        for _ in range(1 + (step % 3 == 0)):  # every third one is saved twice: a replacement
            tensors = {f"t{i}": torch.full((256, 256), float(step)) for i in range(8)}
            checkpoints.save(step, {"model": tensors, "trainer": {"step": step}}, best=step % 5 == 0)
        print(step, flush=True)

for line in sys.stdin:
    if os.fork() == 0:
        write_until_killed(int(line))
    os.wait()
    print("dead", flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_sound_checkpoint(tmp_path: Path) -> None:
    """Twenty writers, each killed while it writes; what was reported as saved, or a later one, is always there."""
    pipe = subprocess.PIPE
    checkpoints, pause, step, in_mid_write = Checkpoints(tmp_path, keep=2), random.Random(5), 0, 0
    command = [sys.executable, "-c", WRITERS, str(tmp_path)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as writers:
        assert writers.stdin is not None and writers.stdout is not None
        for _ in range(20):
            writers.stdin.write(f"{step}\n")
            process = int(writers.stdout.readline())
            reported = int(writers.stdout.readline())
            time.sleep(pause.uniform(0, 0.03))
            os.kill(process, signal.SIGKILL)
            while (line := writers.stdout.readline().strip()) != "dead":
                reported = int(line)
            in_mid_write += any(tmp_path.glob(".*"))
            loaded = checkpoints.load_newest()
            assert loaded is not None and checkpoints.quarantined == 0
            assert loaded.step >= reported > step
            assert loaded.parts["trainer"]["step"] == loaded.step
            assert all(bool((tensor == loaded.step).all()) for tensor in loaded.parts["model"].values())
            assert not list(tmp_path.glob(".*")), "what the kill left is cleaned"
            step = loaded.step
        writers.stdin.close()
    assert in_mid_write > 3, "too few kills fell into a write: the test proved nothing"


def test_a_kill_between_the_two_renames_of_a_replacement(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    newest = checkpoints.entries()[-1].path
    newest.rename(tmp_path / f".replaced-{newest.name}")
    loaded = checkpoints.load_newest(FIT)
    assert loaded is not None and loaded.step == 2
