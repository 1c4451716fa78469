"""The harness: turns are taken fairly, and the table says what was measured."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmarks import __main__ as harness
from benchmarks import limits
from benchmarks.measure import Row, alternate


def test_candidates_take_turns_and_the_first_call_does_not_count() -> None:
    order: list[str] = []

    def candidate(name: str) -> float:
        order.append(name)
        return float(order.count(name))

    samples = alternate({"a": lambda: candidate("a"), "b": lambda: candidate("b")}, rounds=2)
    assert samples == {"a": [2.0, 3.0], "b": [2.0, 3.0]}
    assert "".join(order) == "ab" + "ab" + "ba"


def test_a_row_of_the_table() -> None:
    row = Row("decode: eco", 812.34, "tokens/s", 0.71, "floor", 2.1, "batch 1")
    assert harness.table_line(row) == "| decode: eco | 812 | tokens/s | 71% | floor | 2.10 | batch 1 |"
    assert harness.table_line(Row("limit", 1.5, "GB/s")) == "| limit | 1.50 | GB/s |  |  |  |  |"


def test_figures_are_printed_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = ModuleType("benchmarks.limits")
    fake.rows = lambda rounds: [Row(f"in {rounds} rounds", 3.0, "ms")]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "benchmarks.limits", fake)
    results = tmp_path / "results.json"
    results.write_text('{"encoding": "kept"}')
    assert harness.main(["--quick", "--only", "limits", "--json", str(results)]) == 0
    assert "| in 2 rounds | 3.00 | ms |" in capsys.readouterr().out
    kept = json.loads(results.read_text())
    assert kept["encoding"] == "kept" and kept["limits"]["rows"][0]["value"] == 3.0
    assert kept["limits"]["machine"]["cores"] >= 1


def test_an_unknown_benchmark_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert harness.main(["--only", "traning"]) == 1
    assert "no benchmark traning; there is: limits" in capsys.readouterr().err


def test_limits_are_in_flops_and_bytes_per_second() -> None:
    assert 1e9 < limits.matmul(torch.float32, repeats=1) < 1e16
    assert 1e8 < limits.copy_bandwidth() < 1e14
    assert limits.weight_seconds(4_000_000) < 1
