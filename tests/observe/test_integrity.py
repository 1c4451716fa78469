import json
import shutil

import pytest

from eco.observe.integrity import Integrity, recipe_digest
from eco.observe.run import RunPaths

RECIPE = {"train": {"steps": 5, "lr": 0.1}, "data": {"paths": ["a"]}}
SEEDS = {"seed": 1337}


@pytest.fixture
def run(tmp_path):
    paths = RunPaths(tmp_path / "run")
    paths.path.mkdir()
    paths.recipe.write_text("train: {steps: 5}")
    paths.tokenizer.write_text("{}")
    outside = tmp_path / "corpus.txt"
    outside.write_text("In the beginning")
    Integrity(paths, RECIPE, SEEDS).write([paths.recipe, paths.tokenizer, outside])
    return paths


def test_an_untouched_run_has_no_differences_also_after_it_was_moved(run, tmp_path):
    assert Integrity(run, RECIPE, SEEDS).differences() == []
    moved = RunPaths(shutil.move(run.path, tmp_path / "elsewhere"))
    assert Integrity(moved, RECIPE, SEEDS).differences() == []


def test_the_manifest_names_hash_seeds_and_files(run):
    manifest = json.loads(run.integrity_manifest.read_text())
    assert manifest["config_hash"] == recipe_digest(RECIPE)
    assert manifest["seeds"] == SEEDS
    entry = manifest["tracked_files"][0]
    assert entry["path"] == "recipe.yaml"
    assert entry["size"] == 17
    assert len(entry["sha256"]) == 64


def test_every_difference_is_told(run, tmp_path):
    run.recipe.write_text("train: {steps: 6}")
    run.tokenizer.unlink()
    (tmp_path / "corpus.txt").write_text("In the beginning was")
    found = Integrity(run, RECIPE | {"model": 1}, {"seed": 1}).differences()
    assert found[:2] == ["recipe.yaml has other content of the same size", "tokenizer.json is gone"]
    assert found[2].endswith("corpus.txt had 16 bytes and has 20")
    assert found[3:] == [
        "the recipe is not the one that the run started with",
        "the seeds were {'seed': 1337} and are {'seed': 1}",
    ]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"config_hash": "x"}'])
def test_a_damaged_manifest_is_a_difference(run, content):
    run.integrity_manifest.write_text(content)
    (difference,) = Integrity(run, RECIPE, SEEDS).differences()
    assert "integrity_manifest.json cannot be read" in difference


def test_the_digest_ignores_the_order_of_keys_and_sees_every_value():
    assert recipe_digest({"a": 1, "b": {"c": 2, "d": 3}}) == recipe_digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert recipe_digest({"a": 1}) != recipe_digest({"a": 2})
