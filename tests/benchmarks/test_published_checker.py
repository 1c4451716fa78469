"""The benchmark's peer gives the verdicts that the published checker gives."""

import os

import pytest

from benchmarks.published_checker import check

PROGRAM = "def square(number):\n    return number * number\n"


@pytest.mark.parametrize(
    ("tests", "verdict"),
    [
        ("assert square(3) == 9", "passed"),
        ("assert square(3) == 8, 'eight'", "failed: eight"),
        ("raise SystemExit(0)", "failed: 0"),
        ("import os\nos.kill(os.getpid(), 9)", "failed: 'NoneType' object is not callable"),
        ("input()", "failed: EOF when reading a line"),
        ("while True: pass", "timed out"),
    ],
)
def test_verdicts(tests: str, verdict: str) -> None:
    here = os.getcwd()
    assert check(PROGRAM, tests, seconds=0.3) == verdict
    assert os.getcwd() == here and os.kill is not None  # what is taken away is taken from the child alone
