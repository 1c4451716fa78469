"""Every command on one trained run, as a person calls it and as a script does."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_library import small_library
from small_run import read_rows

from eco import recipe as recipes

ARC = Path(__file__).parents[3] / "shared" / "data" / "arc" / "arc_agi_1_training.json"


@pytest.fixture(scope="module")
def run(tmp_path_factory, corpus):
    from small_run import TINY

    import eco as package

    folder = tmp_path_factory.mktemp("commands")
    (folder / "tiny.yaml").write_text(TINY + f"data: {{paths: ['{corpus}'], held_out: 0.2}}\n")
    package.train(str(folder / "tiny.yaml"), {"output_dir": str(folder / "run")})
    return folder / "run"


def answer(completed):
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout)


def test_the_run_directory_is_complete(run):
    expected = ["recipe.yaml", "metrics.jsonl", "status.json", "environment.json", "integrity_manifest.json"]
    expected += ["tokenizer.json", "checkpoints", "errors", "samples", "plots", "logs"]
    assert [name for name in expected if not (run / name).exists()] == []
    rows = read_rows(run)
    assert [row["step"] for row in rows] == list(range(13))
    assert rows[0]["event_startup"] == 1 and rows[0]["startup_init_s"] > 0
    wanted = {"core_tokens_per_s", "effective_tokens_per_s", "phase_forward_s", "phase_backward_s", "phase_data_s"}
    wanted |= {"perf_bottleneck_stage", "perf_bottleneck_share", "startup_init_s", "time_to_first_step_s"}
    assert rows[-1]["feature_ema_enabled"] == 0
    wanted |= {"checkpoint_resume_step", "loss", "loss_ema", "lr", "grad_norm", "tokens_seen_total"}
    assert wanted - rows[-1].keys() == set()
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    assert list((run / "plots").glob("*.png"))
    assert "def " in next((run / "samples").iterdir()).read_text()


def test_eval_measures_all_held_out_text(eco, run):
    result = answer(eco("eval", run, "--json"))
    assert 0 < result["val_bits_per_byte"] < read_rows(run)[0]["val_bits_per_byte"]
    assert "val bits per byte" in eco("eval", run).stdout


def test_generate_is_repeatable_and_seeded(eco, run):
    words = ["generate", run, "--prompt", "def alpha", "--max-new-tokens", "12", "--json"]
    one, same, other = eco(*words), eco(*words), eco(*words, "--seed", "5")
    assert answer(one) == answer(same)
    assert answer(one)["completions"] != answer(other)["completions"]
    assert eco("generate", run, "--prompt", "def alpha", "--max-new-tokens", "4").stdout.startswith("def alpha")


def test_generate_refuses_a_control_that_the_model_never_had(eco, run):
    words = ["generate", run, "--prompt", "def alpha"]
    assert "trained without control" in eco(*words, "--control", "quality=1.0").stderr
    assert "guidance 2.0 has no control to strengthen" in eco(*words, "--guidance", "2").stderr


def test_plot_and_checkpoints(eco, run):
    assert all(path.endswith(".png") for path in answer(eco("plot", run, "--json")))
    listed = answer(eco("checkpoints", run, "--verify", "--json"))
    assert listed[-1]["step"] == 12
    assert all(entry["problems"] == [] for entry in listed)
    assert [entry["best"] for entry in listed].count(True) == 1
    shown = eco("checkpoints", run, "--verify").stdout
    assert "sound" in shown and shown.startswith("finished at step 12")


def test_recipes_and_doctor(eco):
    assert {row["name"] for row in answer(eco("recipes", "--json"))} == set(recipes.names())
    checked = eco("doctor", "--json")
    report = json.loads(checked.stdout)
    assert report["ok"] is (checked.returncode == 0)
    assert all(check["detail"] for check in report["checks"])


def test_a_runs_own_recipe_repeats_it_beside_it(eco, run):
    result = answer(eco("train", run / "recipe.yaml", "--json"))
    assert result["run"] == f"{run}-2"
    here = [row["loss"] for row in read_rows(run)[1:13]]
    assert [row["loss"] for row in read_rows(run.with_name("run-2"))[1:13]] == here


def test_a_finished_run_says_so_and_can_be_prolonged(eco, run):
    assert "finished already at step 12" in eco("resume", run).stdout
    done = eco("resume", run, "--steps", "14", "--json")
    assert answer(done)["step"] == 14


def test_eco_train_takes_a_file_of_flat_flags(tmp_path, corpus):
    flags = tmp_path / "flags.txt"
    shape = "--d-model 32\n--n-layers 1\n--n-heads 2\n--seq-len 32\n"
    flags.write_text(
        f"# a small run\n--recipe absent  # the command line wins\n--data.paths {corpus}\n\n{shape}--steps 6\n"
        "--save-interval 3\n--log-interval 2\n--max-checkpoints 1\n--output-dir out\n--checkpoint-dir saved\n"
    )
    command = [sys.executable, "-c", "from eco.cli import eco_train; raise SystemExit(eco_train())"]
    words = [
        f"@{flags}",
        "--recipe=demo",
        "--steps",
        "5",
        "--no-resume",
        "--tokenizer.vocab_size",
        "300",
        "--eval-interval",
        "0",
    ]
    done = subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in read_rows(tmp_path / "out")] == list(range(6))
    assert (tmp_path / "saved" / "step_00000005").is_dir()
    assert str(tmp_path / "out") in done.stdout


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_dry_runs(name, corpus, tmp_path):
    import eco.jobs.train as job
    from eco.flags import from_mapping

    if name == "trm-arc" and not ARC.is_file():
        pytest.skip(f"{ARC} is not there")
    few: dict = {"data.paths": [str(corpus)]}
    if name.startswith(("mvlm-", "simone")):
        few = {"data.paths": [f"library:{small_library(tmp_path / 'books')}"]}
    if name.startswith("trm-"):
        few = {"data.puzzles": 20, "data.held_out_puzzles": 10}
    if name == "trm-arc":
        few["data.paths"] = [str(ARC)]
    settings = {
        "log.trackers": ["tensorboard"],
        **few,
        "output_dir": str(tmp_path),
        "train.batch_size": 1,
        "train.accumulation": 1,
    }
    result = job.train_recipe(recipes.load(name, from_mapping(settings)), name, dry_run=True, quiet=True)
    assert result.step == 0
    assert not (tmp_path / "logs" / "tensorboard").exists(), "nothing is tracked"
    assert sum(result.parameters.values()) > 0


def test_a_dry_run_of_a_fresh_start_asks_nothing_of_the_run_that_is_there(eco, tiny):
    assert eco("train", tiny, "--steps", "2", "--output-dir", "run").returncode == 0
    dry = eco("train", tiny, "--d-model", "64", "--output-dir", "run", "--no-resume", "--dry-run")
    assert "step 0 (dry run)" in dry.stdout, dry.stderr
    assert eco("train", tiny, "--d-model", "64", "--output-dir", "run", "--dry-run").returncode == 1


def test_help_is_fast_and_imports_no_torch(eco):
    times = []
    for _ in range(3):
        began = time.perf_counter()
        output, _ = eco.start("--help").communicate()
        times.append(time.perf_counter() - began)
        assert output.startswith("usage: eco")
    assert min(times) < 0.3
    command = [sys.executable, "-X", "importtime", "-m", "eco", "--help"]
    assert "torch" not in subprocess.run(command, capture_output=True, text=True).stderr
