"""The comparison of Triton with torch can be built and called; without a GPU it says why it measures nothing."""

import pytest
import torch

from benchmarks import triton_kernels
from benchmarks.triton_kernels import Sizes, comparisons
from eco.kernels import native

SMALL = Sizes(batch=1, time=8, heads=2, channels=16, rank=2, state=16, rotated=4, width=16, hidden=32, vocabulary=50)


def test_every_candidate_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)  # what is called triton is plain torch here
    for candidates in comparisons("cpu", SMALL).values():
        assert "triton" in candidates and "torch" in candidates
        ours, theirs = candidates["triton"](), candidates["torch"]()
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.02)


def test_without_a_gpu_there_are_no_rows_but_a_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert triton_kernels.rows(1) == []
    assert "skipped" in capsys.readouterr().err
