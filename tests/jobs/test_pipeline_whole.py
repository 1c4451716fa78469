"""The pipeline with its real commands, in small: both models are trained, packed, found valid and compared."""

import json
import subprocess
import sys

import pytest
from small_library import small_library

SMALL = [
    "--steps", "4", "--d-model", "32", "--n-layers", "2", "--n-heads", "2", "--seq-len", "128", "--batch-size", "2",
    "--eval-interval", "2", "--eval-windows", "4", "--save-interval", "2", "--tokenizer.vocab_size", "2048",
    "--train.warmup", "1", "--sampling.max_new_tokens", "8", "--data.held_out", "0.2",
]  # fmt: skip


@pytest.mark.slow
def test_both_models_come_out_valid_and_compared(tmp_path):
    library, out = small_library(tmp_path), tmp_path / "out"
    words = ["pipeline", "simone", "--preset", "laptop", "--data.paths", str(library), "--output-dir", str(out), *SMALL]
    command = [sys.executable, "-m", "eco", *words]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = json.loads((out / "training_summary.json").read_text())
    assert told["succeeded"] and all(stage["state"] == "done" for stage in told["stages"].values())
    for model in ("mvlm-gpt2", "simone"):
        assert (out / "models_for_download" / f"{model}_model.tar.gz").is_file()
        assert json.loads((out / "models_for_download" / f"{model}_validation.json").read_text())["passed"]
        assert {"recipe.yaml", "metrics.jsonl", "status.json"} <= told["files_mb"][model].keys()
    found = json.loads((out / "comparison" / "comparison.json").read_text())
    assert list(found["models"]) == ["mvlm-gpt2", "simone"] and (out / "comparison" / "comparison.png").is_file()
    again = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0 and again.stdout.count("done before") == len(told["stages"])
