"""Held-out pass@1 by round, of a run of the loop and of its controls, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from eco.evaluation.bootstrap import interval
from eco.improvement.decisions import read_decisions
from eco.improvement.measure import Measurement
from eco.observe.plots import BLUE, GREY, INK, ORANGE, canvas, save

_COLOURS = {"none": BLUE, "random-reward": ORANGE, "more-pretraining": "#009E73", "frozen": GREY}
"""Of each control; the method is the one without."""

_DASHES = ("-", "--", ":", "-.")
"""Of the runs of a control, one after the other."""


class Point(NamedTuple):
    """pass@1 of the weights that count after `round` rounds, with its 95 % interval over tasks, as shares of 1.

    refused: pass@1 of the weights that this round brought forth and that were taken back, where they were.
    """

    round: int
    value: float
    low: float
    high: float
    refused: float | None


def draw_curve(folders: Sequence[Path], path: Path) -> Path:
    """Draws the runs of the loop in `folders`, those of equal control in one colour; returns `path`, a PNG.

    The figures are those of the tasks that the gate decides by. A folder in which no round was decided is left out.

    Raises:
        ValueError: no folder has a decided round; or `decisions.jsonl` is damaged.
    """
    runs = [(folder, rows) for folder in folders if (rows := read_decisions(folder / "decisions.jsonl"))]
    if not runs:
        raise ValueError("nothing to draw: no round of the loop has been decided yet")
    learnt = Measurement.from_json(runs[0][1][0]["after"]).learnt
    figure, axes = canvas(f"Held-out tasks solved, {learnt}", "pass@1 (%)", "round")
    drawn = dict.fromkeys(_COLOURS, 0)
    for folder, rows in runs:
        control = rows[0]["control"]
        _draw(axes, curve(rows), folder.name, _COLOURS[control], _DASHES[drawn[control] % len(_DASHES)])
        drawn[control] += 1
    axes.plot([], [], "x", color=INK, label="taken back")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, labelcolor=INK)
    return save(figure, path)


def curve(decisions: Sequence[dict[str, Any]]) -> list[Point]:
    """The points of a run's decisions: one before its first round, and one after each."""
    points = [_point(decisions[0]["round"] - 1, decisions[0]["before"], None)]
    for row in decisions:
        refused = None if row["promoted"] else _measured(row["after"])[0]
        points.append(_point(row["round"], row["after"] if row["promoted"] else row["before"], refused))
    return points


def _draw(axes: Axes, points: Sequence[Point], label: str, colour: str, dashes: str) -> None:
    rounds = [point.round for point in points]
    value, low, high = (100 * np.array([point[at] for point in points]) for at in (1, 2, 3))
    axes.plot(rounds, value, dashes, color=colour, linewidth=1.8, marker="o", markersize=4, label=label)
    axes.fill_between(rounds, low, high, color=colour, alpha=0.15, linewidth=0)
    refused = [(point.round, 100 * point.refused) for point in points if point.refused is not None]
    axes.plot(*np.array(refused).reshape(-1, 2).T, "x", color=colour, markersize=6)


def _point(round: int, measurement: dict[str, Any], refused: float | None) -> Point:
    return Point(round, *_measured(measurement), refused)


def _measured(measurement: dict[str, Any]) -> tuple[float, float, float]:
    """pass@1 of the learnt set, and its interval."""
    found = Measurement.from_json(measurement)
    suite = found.suites[found.learnt]
    return suite.pass_at_1, *interval(list(suite.rates.values()), seed=0)
