import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eco.observe.metrics import MetricsFile, plain, read_metrics

WRITE_FOREVER = """
import sys
from pathlib import Path
from eco.observe.metrics import MetricsFile
metrics = MetricsFile(Path(sys.argv[1]))
step = 0
while True:
    step += 1
    metrics.append({"step": step, "loss": 1 / step})
    if step == 50:
        print("written", flush=True)
"""


def no_constant(text):
    raise AssertionError(f"{text} is not strict JSON")


def write(path, steps, resume_step=None):
    metrics = MetricsFile(path, resume_step)
    for step in steps:
        metrics.append({"step": step, "loss": 1.0 / step})
    metrics.close()


def test_rows_come_back_as_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2, 3])
    assert read_metrics(path) == [{"step": s, "loss": 1.0 / s} for s in (1, 2, 3)]


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_any_float_becomes_strict_json_of_the_same_value(value):
    text = json.dumps(plain(value), allow_nan=False)
    back = json.loads(text, parse_constant=no_constant)
    assert back == value if math.isfinite(value) else back is None


def test_what_is_not_finite_is_null_and_scalars_of_other_libraries_are_numbers(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    row = {"step": 1, "a": math.nan, "b": -math.inf, "c": torch.tensor(math.nan), "d": np.float32(0.5), "e": None}
    written = metrics.append(row | {"f": torch.tensor(3), "g": "text"})
    assert written == {"step": 1, "a": None, "b": None, "c": None, "d": 0.5, "e": None, "f": 3, "g": "text"}
    assert json.loads(path.read_text(), parse_constant=no_constant) == written


def test_nested_values_and_rows_without_a_step_are_our_own_errors(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    with pytest.raises(AssertionError):
        metrics.append({"step": 1, "nested": {"a": 1}})
    with pytest.raises(AssertionError):
        metrics.append({"loss": 1.0})


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_torn_last_line_is_skipped_by_readers_and_repaired_on_resume(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2, 3])
    path.write_bytes(path.read_bytes()[:-cut])
    whole = 3 if cut == 1 else 2  # without the newline alone, the last row is still whole
    assert len(read_metrics(path)) == whole
    write(path, range(whole + 1, 6), resume_step=whole)
    write(tmp_path / "uninterrupted.jsonl", range(1, 6))
    assert path.read_bytes() == (tmp_path / "uninterrupted.jsonl").read_bytes()


def test_resuming_drops_the_rows_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 8))
    write(path, range(5, 11), resume_step=4)
    write(tmp_path / "uninterrupted.jsonl", range(1, 11))
    assert path.read_bytes() == (tmp_path / "uninterrupted.jsonl").read_bytes()


def test_a_fresh_run_starts_with_an_empty_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2])
    write(path, [1])
    assert len(read_metrics(path)) == 1


def test_a_damaged_line_in_the_middle_is_left_out_and_reported(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2, 3])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"step": 2, "lo\n' + lines[2])
    assert [row["step"] for row in read_metrics(path)] == [1, 3]
    assert "line 2 is damaged" in caplog.text


def test_no_row_is_lost_by_kill_9(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = subprocess.Popen([sys.executable, "-c", WRITE_FOREVER, path], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "written\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    steps = [row["step"] for row in read_metrics(path)]
    assert len(steps) >= 50
    assert steps == list(range(1, len(steps) + 1))


def test_reading_what_is_not_there_says_so(tmp_path):
    with pytest.raises(ValueError, match="no metrics at"):
        read_metrics(tmp_path / "metrics.jsonl")
