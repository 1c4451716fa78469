"""`eco improve` on a run, by real answers to small sums: its arms, a kill, what it refuses, and what it reports."""

import json
import random
import shutil
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_loop import SUMS, content, write_recipe
from small_run import SMALL_PUZZLES

import eco as package
from eco.commands.improve import CONTROLS, verdict
from eco.improvement.arms import read_arms
from eco.improvement.loop import Loop, NothingPasses
from eco.jobs.improve import improve
from eco.sandbox import levels


def words(settings):
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


def failing(completed):
    assert completed.returncode == 1, completed.stdout
    assert "Traceback" not in completed.stderr
    return completed.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus):
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_recipe(folder / "tiny.yaml", corpus)
    return package.train(recipe, {"output_dir": str(folder / "run"), "train.steps": 4}).run


@pytest.fixture(scope="module")
def improved(trained, tmp_path_factory):
    """The run with all arms."""
    run = tmp_path_factory.mktemp("improved") / "run"
    shutil.copytree(trained, run)
    improve(str(run), SUMS, controls=CONTROLS)
    return run


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def done(improved, tmp_path):
    """A copy of the run with all arms."""
    shutil.copytree(improved, tmp_path / "done")
    return tmp_path / "done"


def model_of(folder, step):
    return load_file(folder / f"checkpoints/step_{step:08d}/model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_the_arms_share_their_start_and_differ_by_what_they_control(improved):
    arms = read_arms(improved)
    assert [(arm.control, arm.seed, arm.rounds) for arm in arms] == [
        ("none", 0, 2), ("frozen", 0, 2), ("more-pretraining", 0, 2), ("random-reward", 0, 2),
    ]  # fmt: skip
    assert len({(arm.folder / "start.json").read_bytes() for arm in arms}) == 1, "and its seconds: it was made once"
    start = model_of(arms[0].folder, 0)
    last = {arm.control: model_of(arm.folder, 2) for arm in arms}
    assert same(last["frozen"], start)
    assert not any(same(last[name], start) for name in last if name != "frozen")
    heads = {arm.control: json.loads((arm.folder / "head.json").read_text()) for arm in arms}
    assert heads["random-reward"]["sampled_tokens"] > 0 and heads["frozen"]["sampled_tokens"] > 0
    method, more = heads["none"], heads["more-pretraining"]
    assert more["trained_tokens"] >= method["trained_tokens"] + method["sampled_tokens"]
    assert not list((improved / "improve-more-pretraining/attempts").iterdir())
    stored = [json.loads(row) for rows in content(improved / "improve")["rows"].values() for row in rows]
    assert {row["source"] for row in stored} == {"reference", "model"}, "the judge was the real one, and answers passed"
    assert (improved / "improve.png").stat().st_size > 1000


def test_what_is_reported_without_controls_is_not_called_a_gain(improved, done):
    lines = verdict(read_arms(improved))
    assert [line.split(",")[0] for line in lines] == [f"gain over {control}" for control in CONTROLS]
    shutil.rmtree(done / "improve-frozen")
    (done / "improve-random-reward/result.json").unlink()
    found = json.loads((done / "improve-more-pretraining/result.json").read_text())
    (done / "improve-more-pretraining/result.json").write_text(json.dumps(found | {"rounds": 1}))
    (line,) = verdict(read_arms(done))
    assert line.startswith("no result yet") and line.endswith("random-reward | more-pretraining | frozen")


def test_a_killed_improvement_ends_with_the_same_bits(eco, run, improved):
    """Killed twice, at moments that are drawn: in the rounds, wherever that is."""
    dice = random.Random(5)
    head = run / "improve/head.json"
    for attempt in range(2):
        process = eco.start("improve", run, *words(SUMS))
        until = time.monotonic() + 120
        while not head.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.3) if attempt == 0 else dice.uniform(3.0, 5.0))
        process.kill()
        process.communicate()
        assert head.exists()
    improve(str(run), SUMS)
    whole, again = improved / "improve", run / "improve"
    assert content(whole) == content(again)
    assert same(model_of(whole, 2), model_of(again, 2))
    first, second = (json.loads((folder / "result.json").read_text()) for folder in (whole, again))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_further_rounds_go_on_from_the_head(done):
    improve(str(done), SUMS | {"improve.rounds": 3, "improve.generation_interval": 7})
    head = json.loads((done / "improve/head.json").read_text())
    assert head["round"] == 3
    assert len((done / "improve/decisions.jsonl").read_text().splitlines()) == 3
    assert read_arms(done)[0].rounds == 3


def test_a_kill_between_the_two_files_of_the_start(done):
    """start.json is there, and head.json is not: no other arm's start, but the same again."""
    before = content(done / "improve")["start.json"]
    for path in done.glob("improve-*"):
        shutil.rmtree(path)
    (done / "improve/head.json").unlink()
    improve(str(done), SUMS | {"improve.rounds": 1})
    assert content(done / "improve")["start.json"] == before


def test_other_settings_on_an_old_folder_are_named_by_their_dotted_names(eco, done):
    message = failing(eco("improve", done, *words(SUMS | {"improve.learn.steps": 5, "improve.samples": 3})))
    assert "learn.steps 4, now 5; samples 4, now 3" in message and "--improve-seed" in message
    assert content(done / "improve")["head.json"]["round"] == 2


def test_settings_of_what_is_trained_cannot_change(eco, run):
    assert "not train.steps; train another run" in failing(eco("improve", run, "--train.steps", "9"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"control": "chance"}, "control: Input should be 'none', 'random-reward', 'more-pretraining' or 'frozen'"),
        ({"improve.tasks": "sums"}, "sums"),
        ({"improve.tasks": "synthesis:4", "improve.objective.name": "grpo", "improve.samples": 1}, "set samples to 2"),
        ({"improve.warmup_tasks": 500}, "leaves none of the 120 tasks of arithmetic:1"),
        ({"improve.temperature": 0}, "greater than 0"),
        ({"improve.domains": "arithmetic:1"}, "name a set twice"),
    ],
)
def test_settings_that_cannot_be(eco, run, given, message):
    assert message in failing(eco("improve", run, *words(SUMS | given)))
    assert not (run / "improve/head.json").exists()


def test_what_is_no_language_run(eco, tmp_path):
    assert "nowhere" in failing(eco("improve", "nowhere"))
    (tmp_path / "puzzles.yaml").write_text(SMALL_PUZZLES)
    assert "model of puzzles" in failing(eco("improve", "puzzles.yaml", "--output-dir", "puzzles"))
    assert not (tmp_path / "puzzles").exists(), "said before it is trained"
    assert eco("train", "puzzles.yaml", "--output-dir", "puzzles", "--steps", "1").returncode == 0
    assert "trained on puzzles" in failing(eco("improve", "puzzles"))


def test_a_sandbox_that_cannot_be_had(eco, run, monkeypatch):
    monkeypatch.setattr(levels, "missing", lambda level: "there is no Landlock here")
    message = failing(eco("improve", run, *words(SUMS), "--sandbox", "full"))
    assert "cannot run untrusted code safely: full: there is no Landlock here" in message


def test_prompts_that_the_context_does_not_hold(eco, tiny, tmp_path):
    assert eco("train", tiny, "--output-dir", "run", "--steps", "1").returncode == 0
    message = failing(eco("improve", "run", "--improve.pool", "20", "--improve.gate.held_out_tasks", "4"))
    assert "fit into the model's context of 32 tokens" in message and "larger model.context" in message


def test_nothing_passes(eco, run):
    settings = SUMS | {"improve.tasks": "arithmetic:9", "improve.warmup_tasks": 0, "improve.warmup_steps": 0}
    message = failing(eco("improve", run, *words(settings)))
    assert "none of 64 attempts at arithmetic:9 passed" in message and "take easier tasks" in message
    head = content(run / "improve")["head.json"]
    assert (head["round"], head["weights"]) == (0, 0)
    improve(str(run), SUMS | {"improve.rounds": 1})  # what the message advises: no round stands in the way
    assert content(run / "improve")["head.json"]["round"] == 1


def test_where_nothing_passes_any_more_an_arm_ends_with_what_it_has(run, monkeypatch):
    made = Loop.round

    def round(loop):
        if loop.head.round:
            raise NothingPasses("no attempt passed")
        return made(loop)

    monkeypatch.setattr(Loop, "round", round)
    improved = improve(str(run), SUMS | {"improve.rounds": 3}, controls=["frozen"])
    assert [(arm.control, arm.rounds) for arm in improved.arms] == [("none", 1), ("frozen", 1)]


def test_a_training_that_is_stopped_is_not_improved(eco, tiny, monkeypatch):
    monkeypatch.setattr("eco.training.trainer.Trainer._asked_to_stop", lambda self, signals: "SIGINT")
    assert "training was stopped (SIGINT)" in failing(eco("improve", tiny, "--output-dir", "half"))
    assert not Path("half/improve").exists()


def test_losses_that_need_scaling_are_refused(eco, tiny, tmp_path):
    assert eco("train", tiny, "--output-dir", "run", "--precision", "fp32").returncode == 0
    text = (tmp_path / "run/recipe.yaml").read_text().replace("precision: fp32", "precision: fp16")
    (tmp_path / "run/recipe.yaml").write_text(text)
    assert "take --precision bf16 or fp32" in failing(eco("improve", "run", *words(SUMS)))


@pytest.mark.parametrize("file", ["settings.json", "result.json", "head.json"])
def test_damaged_files_are_named(eco, done, file):
    (done / "improve" / file).write_text("[1, ")
    if file == "result.json":
        message = failing(eco("improve", done, *words(SUMS | {"control": "frozen"})))
    else:
        message = failing(eco("improve", done, *words(SUMS)))
    assert file in message and "damaged" in message


def test_a_full_disk_while_the_start_is_copied(done, monkeypatch):
    shutil.rmtree(done / "improve-frozen")
    whole = content(done / "improve-random-reward")["start.json"]

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("eco.improvement.start.replacing", full)
        with pytest.raises(OSError, match="No space left"):
            improve(str(done), SUMS | {"improve.control": "frozen"})
    improve(str(done), SUMS | {"improve.control": "frozen"})
    assert content(done / "improve-frozen")["start.json"] == whole
