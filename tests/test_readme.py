"""Every `eco` command and Python block of the README runs, in order, in one folder, made small."""

import re
import shlex
from math import prod
from pathlib import Path

import torch
from small_library import small_library

from eco import recipe as recipes
from eco.cli import COMMANDS
from eco.jobs.puzzles import task_of
from eco.plugins import find
from eco.tasks.puzzles.contract import PuzzleConfig

PAGE = (Path(__file__).parent.parent / "README.md").read_text()
SMALL = ["--steps", "6", "--d-model", "32", "--n-layers", "1", "--n-heads", "2", "--seq-len", "32", "--batch-size", "2"]
SMALL += ["--tokenizer.vocab_size", "320", "--eval-windows", "2", "--max-new-tokens", "4", "--train.accumulation", "1"]
SMALL += ["--generation-interval", "0"]  # no task fits into a context as short as that


SMALL_PUZZLES = ["--steps", "4", "--d-model", "32", "--batch-size", "8", "--puzzles", "20", "--eval-windows", "4"]
SMALL_PUZZLES += ["--data.held_out_puzzles", "10"]

SMALL_LOOP = ["--improve-tasks", "arithmetic:1", "--warmup-tasks", "100", "--improve-warmup-steps", "40"]
SMALL_LOOP += ["--improve.pool", "200", "--tasks-per-round", "20", "--group-size", "4", "--improve-steps", "4"]
SMALL_LOOP += ["--improve.max_new_tokens", "6", "--improve.learn.rows", "8", "--improve-lr", "0.01"]
SMALL_LOOP += ["--improve.gate.held_out_tasks", "20", "--improve.gate.samples", "2"]


def small(words):
    if words[0] == "improve":
        return SMALL_LOOP
    if words[1].startswith(("simone", "mvlm")):
        # Passages that models are compared on need the recipe's context, seeds a larger vocabulary than this one.
        return [*SMALL, "--seq-len", "256", "--no-tokenizer.seeds"]
    return SMALL_PUZZLES if words[1].startswith("trm-") else SMALL


def wants_text(words):
    return words[0] in ("train", "demo") and "trm-" not in words[1] and "--data.paths" not in words


def commands():
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] in ("eco", "printf"):
                yield words


def test_the_readme_names_every_command():
    shown = {words[1] for words in commands() if words[0] == "eco"}
    assert shown | {"demo"} == set(COMMANDS)
    assert "eco demo" in PAGE


def test_every_command_runs(eco, corpus, tmp_path):
    (tmp_path / "code.py").write_text(next(corpus.iterdir()).read_text())
    small_library(tmp_path / "books")
    (tmp_path / "books" / "source").rename(tmp_path / "texts")
    for program, *words in commands():
        if program == "printf":
            (tmp_path / words[-1]).write_text(words[0].replace("\\n", "\n"))
            continue
        if words[0] == "prove":  # eight processes even when made small: tests/jobs/test_prove.py runs it
            continue
        if words[0] in ("train", "demo", "improve"):
            words = [*words, *small(words)]
        if words[0] == "pipeline":  # a process for each stage: tests/jobs/test_pipeline.py runs it
            words = [*words, "--dry-run"]
        if words[0] == "resume":
            words = [*words, "--steps", "8"]
        done = eco(*words, *(["--data.paths", corpus] if wants_text(words) else []))
        assert done.returncode == 0, (words, done.stderr)


def test_the_parameter_counts_are_those_of_the_models():
    shown = {}
    for cells in re.findall(r"^\| (`.*?) \| (.*?) M \|", PAGE, re.MULTILINE):
        first, *suffixes = (name.strip("` ") for name in cells[0].split(","))
        shown |= zip(
            [first, *(first.removesuffix("-tiny") + suffix for suffix in suffixes)], cells[1].split(" M, "), strict=True
        )
    counted = {}
    for name in recipes.names():
        recipe = recipes.load(name)
        if isinstance(recipe.data, PuzzleConfig):
            task = task_of(recipe)
            sizes = {"vocab_size": task.vocab_size, "length": prod(task.shape), "identifiers": 1}
        else:
            sizes = {"vocab_size": recipe.model.vocab_size or recipe.tokenizer.vocab_size}
        with torch.device("meta"):
            config = recipe.model.model_copy(update=sizes)
            model = find("models", config.family).build(config)
        counted[name] = f"{sum(model.parameter_table().values()) / 1e6:.1f}"
    assert shown == counted


def test_the_python_block_runs(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    small = f'"train.steps": 4, "data.paths": ["{corpus}"], "model.width": 32, "model.layers": 1, "model.heads": 2,'
    code = block.replace('"train.steps": 100,', small)
    assert code != block
    exec(code, {})
    before, after = map(float, capsys.readouterr().out.splitlines()[0].split())
    assert 0 < after < before
