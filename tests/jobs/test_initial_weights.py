"""`--init-from`: a run that starts from given weights instead of drawing its own."""

import shutil

import pytest
import torch
from safetensors.torch import save_file
from small_run import TINY, read_rows

import eco as package
from eco import recipe as recipes


@pytest.fixture(scope="module")
def source(tmp_path_factory, corpus):
    folder = tmp_path_factory.mktemp("source")
    path = folder / "tiny.yaml"
    path.write_text(TINY + f"data: {{paths: ['{corpus}'], held_out: 0.2}}\n")
    return package.train(str(path), {"output_dir": str(folder / "run"), "train.eval_every": 0}).run


def last_weights(run):
    return run / "checkpoints" / "step_00000012" / "model.safetensors"


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_run_starts_where_another_ended(tiny, source, tmp_path, decay):
    run = package.train(
        tiny, {"output_dir": str(tmp_path / "run"), "init_from": str(source), "train.ema_decay": decay}
    ).run
    assert read_rows(run)[0]["val_loss"] == read_rows(source)[-1]["val_loss"]
    assert recipes.load(str(run)).init_from == str(source)
    assert f"initial weights from {source}: 14 of 14 tensors" in (run / "logs" / "eco.log").read_text()


def test_a_file_gives_what_fits_and_the_rest_is_drawn(tiny, source, tmp_path):
    settings = {"init_from": str(last_weights(source)), "model.layers": 3, "train.steps": 1}
    run = package.train(tiny, settings | {"output_dir": str(tmp_path / "run")}).run
    assert "14 of 20 tensors; drawn anew: blocks.2." in (run / "logs" / "eco.log").read_text()


def test_a_resumed_run_asks_for_its_initial_weights_no_more(tiny, source, tmp_path):
    copy = shutil.copytree(source, tmp_path / "copy")
    settings = {"output_dir": str(tmp_path / "whole"), "init_from": str(copy)}
    whole = package.train(tiny, settings).run
    again = shutil.copytree(whole, tmp_path / "again")
    shutil.rmtree(again / "checkpoints" / "step_00000012")
    shutil.rmtree(copy)
    package.resume(again)
    assert read_rows(again)[-1]["checkpoint_resume_step"] == 10
    assert [row["loss"] for row in read_rows(again)[1:]] == [row["loss"] for row in read_rows(whole)[1:]]


def test_weights_that_fit_nothing_are_refused(tiny, tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_text("no tensors")
    for name, message in (
        ("other.safetensors", r"none of its 1 tensors has name and shape .* \(x \(2,\) there"),
        ("broken.safetensors", "cannot read it"),
        ("missing", "give a run directory or a safetensors file"),
        (".", "is not a run directory"),
    ):
        with pytest.raises(ValueError, match=message):
            package.train(tiny, {"output_dir": str(tmp_path / "run"), "init_from": str(tmp_path / name)})
