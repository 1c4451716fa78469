"""One untrusted program in the sandbox beside the published checker of HumanEval and a fresh Python that does nothing.

A run is a program of one function and one call; a judged one has three tests. Times are what a program that waits for
one verdict sees: the candidates take turns run by run, so that the sandbox makes its next child while another is
measured. What making it costs is in the throughput, which is that of a pool that is kept busy.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from statistics import median

from benchmarks.measure import Row, alternate, seconds
from benchmarks.published_checker import check
from eco.sandbox import Call, Sandbox

PROGRAM = "def square(number):\n    return number * number\n"
TESTS = "assert square(2) == 4\nassert square(-3) == 9\nassert square(0) == 0\n"
TURNS, BATCH = 20, 100
AIM_PUBLISHED, AIM_PYTHON = 0.5, 0.25
"""Shares of the peers' times that a run at `full` may take."""


def rows(rounds: int = 5) -> list[Row]:
    """Milliseconds of a run, and runs per second by 1 and by 2 workers."""
    calls = [Call("square", (4,))]
    with Sandbox(workers=1) as one, Sandbox(workers=2) as two:
        (outcome,) = one.run(PROGRAM, calls)
        assert outcome.kind == "pass" and outcome.value == 16, outcome
        assert one.judge(PROGRAM, TESTS).kind == "pass"
        names = {"run": f"sandbox run, {outcome.level}: eco", "judge": f"sandbox judge, {outcome.level}: eco"}
        times = alternate(
            {
                names["run"]: _milliseconds(lambda: one.run(PROGRAM, calls)),
                names["judge"]: _milliseconds(lambda: one.judge(PROGRAM, TESTS)),
                "sandbox judge: HumanEval's checker": _milliseconds(lambda: check(PROGRAM, TESTS)),
                "sandbox run: python -c pass": _milliseconds(lambda: subprocess.run([sys.executable, "-c", "pass"])),
            },
            TURNS * rounds,
        )
        jobs = [(PROGRAM, calls)] * BATCH
        rates = alternate(
            {
                "sandbox, 1 worker: eco": lambda: BATCH / seconds(lambda: one.run_many(jobs)),
                "sandbox, 2 workers: eco": lambda: BATCH / seconds(lambda: two.run_many(jobs)),
            },
            rounds,
        )
    return _time_rows(names, {name: median(values) for name, values in times.items()}) + [
        Row(name, median(values), "runs/s", note=f"{BATCH} runs, {os.cpu_count()} cores")
        for name, values in rates.items()
    ]


def _milliseconds(action: Callable[[], object]) -> Callable[[], float]:
    return lambda: 1e3 * seconds(action)


def _time_rows(names: dict[str, str], middle: dict[str, float]) -> list[Row]:
    checker, python = middle["sandbox judge: HumanEval's checker"], middle["sandbox run: python -c pass"]
    own = middle[names["run"]]
    shares = (
        f"{own / checker:.2f} x the checker (aim {AIM_PUBLISHED}), {own / python:.2f} x python -c (aim {AIM_PYTHON})"
    )
    peers = {names["run"]: min(checker, python), names["judge"]: checker}
    return [
        Row(
            name,
            value,
            "ms",
            peer_ratio=peers[name] / value if name in peers else None,
            note=shares if name == names["run"] else "",
        )
        for name, value in middle.items()
    ]
