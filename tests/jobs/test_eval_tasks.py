"""`eco eval RUN --tasks ...` on a run that was trained for a moment, and with its engine told the answers."""

import json
import sys
from pathlib import Path

import pytest
from small_run import SMALL_PUZZLES, TINY

import eco as package
from eco.inference.completion import Completion
from eco.inference.engine import Engine
from eco.tasks.sets import open_tasks

DATA = Path(__file__).parents[3] / "shared" / "data"
FAST = ("--max-new-tokens", "8", "--count", "6")


@pytest.fixture(scope="module")
def run(tmp_path_factory, corpus):
    folder = tmp_path_factory.mktemp("eval_tasks")
    recipe = TINY.replace("context: 32", "context: 320").replace("steps: 12", "steps: 2")
    (folder / "tiny.yaml").write_text(recipe + f"data: {{paths: ['{corpus}'], held_out: 0.5}}\n")
    package.train(str(folder / "tiny.yaml"), {"output_dir": str(folder / "run")})
    return folder / "run"


@pytest.fixture
def crib(monkeypatch):
    """Tells every engine the solutions of some sets; the first `wrong` samples of a task stay empty."""

    def tell(*names, wrong=0, count=6):
        solutions = {task.prompt: task.solution() for name in names for task in open_tasks(name, "held_out", count)}

        def generate(self, prompts, sampling, samples=1):
            texts = [[""] * wrong + [solutions[prompt]] * (samples - wrong) for prompt in prompts]
            return [[Completion(text, [], [], [], "eos") for text in row] for row in texts]

        monkeypatch.setattr(Engine, "generate", generate)

    return tell


def answer(completed):
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout)


def test_a_model_that_learnt_nothing_scores_about_0_and_its_text_is_still_measured(eco, run, tmp_path):
    out = tmp_path / "samples.jsonl"
    words = ["eval", run, "--tasks", "arithmetic:3,expressions", "--samples", "4", "--k", "1,4", "--json", *FAST]
    result = answer(eco(*words, "--out", out))
    assert result["val_bits_per_byte"] == answer(eco("eval", run, "--json"))["val_bits_per_byte"]
    assert list(result["task_sets"]) == ["arithmetic:3", "expressions"]
    for figures in result["task_sets"].values():
        assert (figures["tasks"], figures["samples"], figures["infrastructure"]) == (6, 24, 0)
        assert figures["pass_at"]["1"]["value"] <= figures["pass_at"]["4"]["value"] < 0.5
        assert figures["pass_at"]["1"]["low"] <= figures["pass_at"]["1"]["value"] <= figures["pass_at"]["1"]["high"]
        assert figures["outcomes"]["fail"] > 0.8 and figures["sandbox"] in ("full", "no-userns")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["sample"] for row in rows] == [0, 1, 2, 3] * 12
    assert len({(row["set"], row["task"]) for row in rows}) == 12
    assert {row["sandbox"] for row in rows} == {figures["sandbox"]}
    assert all(row["completion"] and row["outcome"] == "fail" for row in rows if row["set"] == "arithmetic:3")
    again, other = eco(*words, "--out", tmp_path / "again"), eco(*words, "--seed", "1", "--out", tmp_path / "other")
    assert answer(again)["task_sets"].keys() == answer(other)["task_sets"].keys()
    assert (tmp_path / "again").read_text() == out.read_text() != (tmp_path / "other").read_text()


def test_who_writes_the_solutions_scores_1(run, crib):
    crib("arithmetic", "synthesis")
    figures = package.evaluate(run, tasks="arithmetic,synthesis", samples=2, k=(1, 2), count=6)["task_sets"]
    for name in ("arithmetic", "synthesis"):
        assert figures[name]["pass_at"]["1"] == {"value": 1.0, "low": 1.0, "high": 1.0, "tasks": 6}
        assert (figures[name]["outcomes"], figures[name]["score"]) == ({"pass": 1.0}, 1.0)


def test_an_empty_completion_never_passes(run, crib):
    crib("arithmetic", "synthesis", wrong=3)
    for figures in package.evaluate(run, tasks="arithmetic,synthesis", samples=4, k="1,4", count=6)[
        "task_sets"
    ].values():
        assert figures["outcomes"] == pytest.approx({"pass": 0.25, "fail": 0.75})
        assert figures["pass_at"]["1"]["value"] == pytest.approx(0.25)
        assert figures["pass_at"]["4"]["value"] == 1.0


@pytest.mark.parametrize(
    "name",
    [
        f"humaneval@{DATA}/humaneval/humaneval_first82.jsonl",
        f"gsm8k@{DATA}/gsm8k/gsm8k_train_first1000.jsonl",
        f"mbpp@{DATA}/mbpp/mbpp_prompt_val_train.jsonl",
    ],
)
def test_published_tasks_are_solved_by_their_solutions(run, crib, name, monkeypatch):
    if not Path(name.partition("@")[2]).is_file():
        pytest.skip("the published files are not here")
    monkeypatch.setattr("eco.jobs.evaluate.has_room", lambda engine, task: True)
    monkeypatch.setattr("eco.evaluation.tasks.has_room", lambda engine, task: True)
    crib(name, count=20)
    figures = package.evaluate(run, tasks=name, count=20)["task_sets"][name]
    assert (figures["tasks"], figures["pass_at"]["1"]["value"]) == (20, 1.0)


def test_people_read_a_block_for_each_set(eco, run):
    shown = eco("eval", run, "--tasks", "arithmetic,expressions:2", "--samples", "2", "--k", "1,2", *FAST).stdout
    assert "val bits per byte" in shown and "\narithmetic\n" in shown and "\nexpressions:2\n" in shown
    assert shown.count("pass@1 ") == shown.count("pass@2 ") == shown.count("95 % interval") / 2 == 2
    assert "not judged" not in shown and "prompt too long" not in shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--tasks", "nosuch"], "no 'nosuch' in eco/tasks/sets"),
        (["--tasks", "arithmetic", "--k", "2"], "pass@2 cannot be told from 1 samples"),
        (["--samples", "3"], "on which tasks?"),
        (["--tasks", "arithmetic", "--latent-noise", "1"], "these are for models of puzzles: latent_noise"),
        (["--tasks", "arithmetic", "--count", "999999"], "ask for fewer"),
        (["--tasks", "humaneval@absent.jsonl"], "no file"),
    ],
)
def test_what_cannot_be_measured_is_one_message_and_no_figures(eco, run, words, told):
    done = eco("eval", run, *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert told in done.stderr and "Traceback" not in done.stderr


def test_a_harness_that_is_not_installed_is_told_before_anything_is_measured(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "eco.evaluation.lm_eval", raising=False)
    monkeypatch.setattr("eco.jobs.evaluate.held_out_loss", lambda *_: pytest.fail("something was measured"))
    with pytest.raises(ValueError, match="pip install"):
        package.evaluate(run, lm_eval="anything")


def test_no_samples_are_no_measurement(eco, run, monkeypatch):
    assert eco("eval", run, "--tasks", "arithmetic", "--samples", "0").returncode != 0
    monkeypatch.setattr("eco.tasks.sets.arithmetic.tasks", lambda *_, **__: [])
    done = eco("eval", run, "--tasks", "arithmetic")
    assert (done.returncode, done.stdout) == (1, "") and "has no task of the split 'held_out'" in done.stderr


def test_prompts_that_all_fill_the_context_are_refused(eco, run, monkeypatch):
    monkeypatch.setattr("eco.jobs.evaluate.has_room", lambda engine, task: False)
    done = eco("eval", run, "--tasks", "arithmetic", *FAST)
    assert (done.returncode, done.stdout) == (1, "") and "longer than the model's context of 320" in done.stderr


def test_a_file_of_samples_is_whole_or_not_there(eco, run, tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("no completion could be judged")

    monkeypatch.setattr("eco.jobs.evaluate.summarize", fail)
    done = eco("eval", run, "--tasks", "arithmetic", "--out", tmp_path / "new" / "samples.jsonl", *FAST)
    assert "no completion could be judged" in done.stderr
    assert not (tmp_path / "new" / "samples.jsonl").exists()


def test_models_of_puzzles_are_asked_no_tasks_in_words(eco, tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL_PUZZLES.replace("steps: 20", "steps: 1"))
    package.train(str(tmp_path / "small.yaml"), {"output_dir": str(tmp_path / "run")})
    done = eco("eval", tmp_path / "run", "--tasks", "arithmetic")
    assert done.returncode == 1 and "these are for language models: tasks" in done.stderr


def test_a_set_that_cannot_be_judged_does_not_take_the_others_with_it(eco, run, tmp_path, monkeypatch):
    from eco.jobs import evaluate as job

    summarize = job.summarize

    def picky(samples, *rest):
        if samples[0][0].task.name.startswith("expressions"):
            raise ValueError("no completion could be judged")
        return summarize(samples, *rest)

    monkeypatch.setattr(job, "summarize", picky)
    words = ("eval", run, "--tasks", "arithmetic,expressions", "--out", tmp_path / "samples.jsonl", *FAST)
    sets = json.loads(eco(*words, "--json").stdout)["task_sets"]
    assert sets["expressions"]["refused"] == "no completion could be judged"
    assert sets["arithmetic"]["pass_at"]
    assert (tmp_path / "samples.jsonl").exists()
    assert "no completion could be judged" in eco(*words).stdout
