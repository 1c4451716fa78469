"""`eco solve` on a run that was trained for a moment: what it prints, draws and refuses."""

import io
import json
import re

import numpy as np
import pytest
from matplotlib.image import imread
from small_run import SMALL_PUZZLES

import eco as package
from eco.commands.solve import _row as row_of
from eco.commands.solve import sentences
from eco.inference.search import Answer
from eco.tasks.puzzles import arc

ONE = "1 . | . 4\n. 4 | 1 .\n----+----\n2 1 | 4 .\n4 . | . 1\n"
CLUES = ["1 . . 4", ". 4 1 .", "2 1 4 .", "4 . . 1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("solve")
    (folder / "small.yaml").write_text(SMALL_PUZZLES)
    package.train(str(folder / "small.yaml"), {"output_dir": str(folder / "run")})
    return folder / "run"


@pytest.fixture
def puzzle(tmp_path):
    (tmp_path / "one.txt").write_text(ONE)
    return tmp_path / "one.txt"


def answers(completed):
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout)["answers"]


def is_solution(rows):
    grid = [row.split() for row in rows]
    boxes = [[grid[2 * y + i][2 * x + j] for i in (0, 1) for j in (0, 1)] for y in (0, 1) for x in (0, 1)]
    kept = all(
        c in (".", d) for clues, row in zip(CLUES, grid, strict=True) for c, d in zip(clues.split(), row, strict=True)
    )
    return kept and all(sorted(unit) == list("1234") for unit in [*grid, *map(list, zip(*grid, strict=True)), *boxes])


def test_the_answer_as_json_is_whole_and_honest(eco, run, puzzle):
    (answer,) = answers(eco("solve", run, "--puzzle", puzzle, "--json"))
    assert answer["question"] == CLUES and answer["answer"] == answer["steps"][-1]
    assert len(answer["steps"]) == len(answer["confidence"]) == 4
    assert all(0 < confidence < 1 for confidence in answer["confidence"])
    assert (answer["outcome"] == "pass") is is_solution(answer["answer"])
    last = [step == answer["answer"] for step in answer["steps"]]
    assert all(last[answer["settled"] - 1 :]) and not any(last[answer["settled"] - 2 : answer["settled"] - 1])
    assert answer["path"] == 0 and answer["path_confidence"] == answer["confidence"][-1:]
    assert answer["png"] is None and not list((run / "samples").glob("*.png"))


def test_python_says_the_same(eco, run, puzzle):
    (answer,) = answers(eco("solve", run, "--puzzle", puzzle, "--json", "--steps", "2"))
    (called,) = package.load(run).solve(ONE, steps=2)
    assert called.confidence.tolist() == answer["confidence"] and called.verdict.outcome == answer["outcome"]


def test_more_paths_are_never_less_sure(eco, run, puzzle):
    def surest(*words):
        return answers(eco("solve", run, "--puzzle", puzzle, "--json", *words))[0]

    plain, search = surest(), surest("--latent-num-paths", "6", "--latent-noise", "1")
    assert search["path_confidence"][0] == plain["confidence"][-1]
    assert len(set(search["path_confidence"])) == 6
    assert search["confidence"][-1] == max(search["path_confidence"]) == search["path_confidence"][search["path"]]
    other = surest("--latent-num-paths", "6", "--latent-noise", "1", "--seed", "1")
    assert search["path_confidence"][1:] != other["path_confidence"][1:]


def test_people_see_the_puzzle_the_answer_and_a_picture(eco, run, puzzle):
    completed = eco("solve", run, "--puzzle", puzzle, "--latent-num-paths", "2")
    assert completed.returncode == 0, completed.stderr
    lines = [line.rstrip() for line in completed.stdout.splitlines()]
    assert lines[0].split() == ["puzzle", "answer"]
    assert all(line.startswith(f"{clues}    ") for line, clues in zip(lines[1:5], CLUES, strict=True))
    assert "\x1b" not in completed.stdout
    assert re.search(r"step [1-4] of 4; the halting head is .* % sure\n", completed.stdout)
    assert re.search(r"path [12] of 2; the first, without noise, is .* % sure\n", completed.stdout)
    picture = run / "samples" / "one.png"
    assert f"picture: {picture}" in completed.stdout and imread(picture).shape[0] == 1050


def test_several_puzzles_have_a_picture_each(eco, run, tmp_path):
    (tmp_path / "two.txt").write_text(f"{ONE}\n{ONE}")
    completed = eco("solve", run, "--puzzle", "two.txt", "--png", "new/drawn.png")
    assert completed.returncode == 0, completed.stderr
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"drawn-1.png", "drawn-2.png"}
    assert re.search(r"\nsolved [02] of 2\n$", completed.stdout)


def test_standard_input_is_read(eco, run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(ONE))
    assert answers(eco("solve", run, "--puzzle", "-", "--json"))[0]["question"] == CLUES


def test_a_mark_at_the_beginning_of_the_file_is_no_cell(eco, run, puzzle):
    puzzle.write_text(ONE, encoding="utf-8-sig")
    assert answers(eco("solve", run, "--puzzle", puzzle, "--json"))[0]["question"] == CLUES


@pytest.mark.parametrize("damaged", ["", "5", "{}", "[]", "[1]"])
def test_damaged_names_of_the_puzzle_table_are_told(eco, run, puzzle, damaged):
    whole = (run / "identifiers.json").read_text()
    (run / "identifiers.json").write_text(damaged)
    completed = eco("solve", run, "--puzzle", puzzle)
    (run / "identifiers.json").write_text(whole)
    assert completed.returncode == 1
    assert "cannot read the names of the puzzle table" in completed.stderr and completed.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (ONE.replace("4", "x"), (), "line 1, character 9: 'x' is neither a digit"),
        (ONE, ("--steps", "0"), "steps is 0; a puzzle takes at least 1"),
        (ONE, ("--checkpoint", "7"), "no checkpoint '7'; there is: best, last, 20"),
        (None, (), "cannot read the puzzle file one.txt"),
    ],
)
def test_mistakes_are_one_line(eco, run, tmp_path, text, words, message):
    if text is not None:
        (tmp_path / "one.txt").write_text(text)
    completed = eco("solve", run, "--puzzle", "one.txt", *words)
    assert completed.returncode == 1 and message in completed.stderr and completed.stderr.count("\n") == 1


def test_an_answer_that_nobody_can_judge_is_not_called_right():
    task = arc.build(arc.Config(size=3))
    (question,) = task.parse('{"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3]]}]}')
    verdict, half = task.check(question.inputs, question.inputs), np.array([0.5])
    answer = Answer(question, question.inputs[None], half, 1, verdict, 0, half, known=False)
    row = row_of(task, answer, None)
    assert verdict.outcome == "pass" and (row["outcome"], row["score"]) == (None, None)
    assert sentences(answer, task.has_rules)[1:] == [
        "a grid of 1 x 1; whether it is the right one is not known",
        "the model was not trained on a puzzle without a name and knows puzzles by their names: it can only guess",
    ]
