"""`eco compare`: figures, table and picture of several runs; and what cannot be compared."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from small_library import TEXT, prepared, small_library
from small_run import TINY

import eco as package
from eco.cli import main
from eco.jobs import compare as comparing
from eco.jobs.compare import compare, lines, verdicts

SMALL = TINY.replace("context: 32", "context: 160").replace("steps: 12", "steps: 4").replace("every: 4", "every: 0")
STRUCTURAL = SMALL.replace("{vocab_size: 320}", "{vocab_size: 400, layout: structural}")


def train(folder: Path, recipe: str, paths: str, **settings) -> Path:
    source = folder.parent / f"{folder.name}.yaml"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(recipe + f"data: {{paths: ['{paths}'], held_out: 0.2}}\n")
    package.train(str(source), {"output_dir": str(folder), **settings})
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on one library that differ in size and tokenizer, in folders of one name."""
    folder = tmp_path_factory.mktemp("runs")
    library = f"library:{small_library(folder)}"
    one = train(folder / "a" / "run", SMALL, library)
    return one, train(folder / "b" / "run", STRUCTURAL, library, **{"model.width": 48, "train.steps": 8})


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    return compare(runs, folder, verses=3), folder


def test_the_report_has_all_figures_of_each_run(report, runs):
    found, folder = report
    assert list(found["models"]) == ["a/run", "b/run"] and found["reference"] == "a/run", "one name tells nothing"
    for run, figures in zip(runs, found["models"].values(), strict=True):
        assert figures["run"] == str(run)
        assert {*comparing.COLUMNS} <= figures.keys()
        assert {key for key in comparing.COLUMNS if figures[key] is None} <= {"memory_gb"}, "not seen in so few steps"
        assert figures["parameters"] == sum(package.load(run).model.parameter_table().values())
        assert figures["recall"]["training"]["verses"] == figures["recall"]["held_out"]["verses"] == 3
    assert json.loads((folder / "comparison.json").read_text()) == found
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert {*found["kneser_ney_5gram"]} == {"a/run", "b/run"}


def test_the_difference_is_that_of_the_figures_and_has_its_interval(report):
    found, folder = report
    first, second = (figures["bits_per_byte"] for figures in found["models"].values())
    (name, difference), *others = found["differences"].items()
    assert name == "b/run" and not others
    assert difference["bits_per_byte"] == pytest.approx(second - first)
    low, high = difference["interval"]
    assert low <= difference["bits_per_byte"] <= high and difference["documents"] > 2
    (verdict,) = verdicts(found)
    word = "better than" if high < 0 else "worse than" if low > 0 else "not told apart from"
    assert f"b/run is {word} a/run: {second - first:+.4f} bits per byte" in verdict
    assert verdict in (folder / "comparison.md").read_text()


def test_the_table_has_a_line_for_every_figure(report):
    found, folder = report
    heading, *rows = lines(found)
    assert heading == ["", "a/run", "b/run", "5-gram Kneser-Ney"] and len(rows) == len(comparing.COLUMNS)
    assert all(len(row) == len(heading) for row in rows)
    marked = (folder / "comparison.md").read_text().splitlines()
    assert marked[1] == "| --- | --- | --- | --- |" and len(marked) == len(rows) + 4
    assert f"{min(found['kneser_ney_5gram'].values()):.4f}" in next(row for row in rows if "bits per byte" in row[0])[3]


def test_the_command(runs, tmp_path, capsys):
    words = ["compare", *map(str, runs), "--output-dir", str(tmp_path / "out"), "--verses", "2"]
    assert main([*words, "--json"]) == 0
    assert {*json.loads(capsys.readouterr().out)["models"]} == {"a/run", "b/run"}
    assert main(words) == 0
    assert "a/run" in (said := capsys.readouterr().out) and "95 % interval" in said


def test_text_without_verses_or_long_passages_has_the_other_figures(tmp_path):
    source = tmp_path / "texts"
    source.mkdir()
    words = TEXT.split()
    for number in range(30):
        (source / f"{number}.txt").write_text(" ".join(words[number % 7 : number % 7 + 20]) + f" {number}\n")
    one = train(tmp_path / "x", SMALL, str(source), **{"train.steps": 1})
    found = compare([one, shutil.copytree(one, tmp_path / "y")], tmp_path / "out")
    for figures in found["models"].values():
        assert figures["recall_exact"] is figures["distinct_2"] is None and figures["bits_per_byte"] > 0
    assert found["differences"]["y"]["interval"] == [0.0, 0.0], "the same run twice"
    assert "not told apart" in verdicts(found)[0]
    assert (tmp_path / "out" / "comparison.png").is_file() and "| - | - |" in (
        tmp_path / "out" / "comparison.md"
    ).read_text()


def test_what_cannot_be_compared_is_refused(runs, tmp_path):
    one, two = runs
    for several in ([one], [one, one], [one, f"{one}/../run"]):
        with pytest.raises(ValueError, match="two different runs or more"):
            compare(several, tmp_path / "out")
    with pytest.raises(ValueError, match="is not a run directory"):
        compare([one, tmp_path], tmp_path / "out")
    moved = shutil.copytree(two, tmp_path / "moved")
    recipe = (moved / "recipe.yaml").read_text()
    (moved / "recipe.yaml").write_text(recipe.replace(str(one.parents[1]), str(tmp_path)))
    small_library(tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"the data of .*moved are not those it was trained on"):
        compare([one, moved], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_that_held_out_other_text_are_told_by_name(tmp_path):
    one, other = (prepared(small_library(tmp_path / str(seed), seed), tmp_path / "cache") for seed in (0, 1))
    comparing._check_same_text(["a", "b"], [one, one])
    with pytest.raises(ValueError, match="a and c held out different text"):
        comparing._check_same_text(["a", "b", "c"], [one, one, other])
    both = replace(one, stores=one.stores + other.stores)
    for several in ([one, both], [both, one]):
        with pytest.raises(ValueError, match=r"data\.mix held out of several"):
            comparing._check_same_text(["a", "b"], several)


def test_names_are_the_shortest_ends_that_differ():
    paths = [Path("/x/a/run"), Path("/y/a/run"), Path("/y/b/run")]
    assert comparing._names(paths) == ["x/a/run", "y/a/run", "y/b/run"]
    assert comparing._names(paths[1:]) == ["a/run", "b/run"]
    assert comparing._names([Path("/x/one"), Path("/x/two")]) == ["one", "two"]
