"""The curves of a run as PNG files, drawn from `metrics.jsonl` alone."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from eco.files import replacing
from eco.observe.metrics import Row, read_metrics
from eco.observe.run import RunPaths

BLUE, ORANGE, INK, GREY = "#0072B2", "#E69F00", "#222222", "#8A8A8A"
"""From the Okabe-Ito palette, which colour-blind readers can tell apart."""

_PHASES = {
    "data": ("waiting for data", "#D55E00"),
    "forward": ("forward", "#56B4E9"),
    "backward": ("backward", "#0072B2"),
    "opt_step": ("optimizer", "#CC79A7"),
    "eval": ("evaluation", "#009E73"),
    "checkpoint": ("checkpoint", "#F0E442"),
    "metrics": ("metrics", "#E69F00"),
}
"""Phases of the picture of shares, from the bottom up: name -> label, colour. What is left of a step is "other"."""

_SOLVED = ("exact_accuracy", "val_exact_accuracy")

_FEW = 40
"""Curves of fewer points also show the points."""

_BINS = 80
"""Shares are means over at most this many spans of steps."""


def plot_run(run_dir: Path) -> list[Path]:
    """Draws the curves of loss, accuracy, learning rate, speed and phases into the run's `plots` folder.

    A picture for which the run logged nothing is left out.

    Raises:
        ValueError: there is no metrics file, or no step in it yet.
    """
    run = RunPaths(run_dir)
    rows = read_metrics(run.metrics)
    if not any("loss" in row for row in rows):
        raise ValueError(f"nothing to draw: {run.metrics} holds no training step yet; plot again after the first")
    return draw_curves(rows, run.plots)


def draw_curves(rows: list[Row], folder: Path) -> list[Path]:
    """The pictures of `plot_run` from the rows of a metrics file, in `folder`, which is made where it is missing."""
    drawings: dict[str, Callable[[list[Row]], Figure | None]] = {
        "loss": loss_figure,
        "accuracy": accuracy_figure,
        "learning_rate": learning_rate_figure,
        "speed": speed_figure,
        "phases": phases_figure,
    }
    folder.mkdir(exist_ok=True)
    paths = []
    for name, draw in drawings.items():
        figure = draw(rows)
        if figure is not None:
            paths.append(save(figure, folder / f"{name}.png"))
    return paths


def loss_figure(rows: Sequence[Row]) -> Figure | None:
    """Training loss, its moving average, and the held-out loss."""
    figure, axes = canvas("Loss", "loss (nats per token)")
    _curve(axes, rows, "loss", "training", GREY, faint=True)
    _curve(axes, rows, "loss_ema", "training, moving average", BLUE)
    _curve(axes, rows, "val_loss", "held-out", ORANGE)
    return _finished(figure, axes)


def accuracy_figure(rows: Sequence[Row]) -> Figure | None:
    """Puzzles solved, in percent: of those that training was done with at each step, and of the held-out ones."""
    figure, axes = canvas("Puzzles solved", "all cells right (%)")
    percent = [{"step": row["step"], **{k: 100 * row[k] for k in _SOLVED if row.get(k) is not None}} for row in rows]
    _curve(axes, percent, "exact_accuracy", "training, without averaged weights", GREY, faint=True)
    _curve(axes, percent, "val_exact_accuracy", "held-out", ORANGE)
    axes.set_ylim(0, 100)
    return _finished(figure, axes)


def learning_rate_figure(rows: Sequence[Row]) -> Figure | None:
    """The learning rate of the first parameter group."""
    figure, axes = canvas("Learning rate", "learning rate")
    _curve(axes, rows, "lr", "learning rate", BLUE)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    axes.set_ylim(bottom=0)
    return _finished(figure, axes, legend=False)


def speed_figure(rows: Sequence[Row]) -> Figure | None:
    """Tokens per second: of each step, their moving average, and the mean so far with evaluation and saving."""
    figure, axes = canvas("Speed", "tokens per second")
    _curve(axes, rows, "tokens_per_s", "each step", GREY, faint=True)
    _curve(axes, rows, "tokens_per_s_ema", "moving average", BLUE)
    timed = _timed(rows)
    if timed:
        steps, seconds = _columns(timed, "effective_step_time_s")
        tokens = seconds * _columns(timed, "effective_tokens_per_s")[1]
        label = "mean so far, evaluation and saving included"
        axes.plot(steps, np.cumsum(tokens) / np.cumsum(seconds), color=ORANGE, linewidth=1.8, label=label)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return _finished(figure, axes)


def phases_figure(rows: Sequence[Row]) -> Figure | None:
    """How the time of the steps is shared out among the phases, in percent, stacked."""
    timed = _timed(rows)
    if not timed:
        return None
    figure, axes = canvas("Where the time goes", "share of the time (%)")
    edges, spans = _spans(timed)
    whole = _sums(spans, timed, "effective_step_time_s")
    base = np.zeros(len(whole))
    for name, (label, colour) in _PHASES.items():
        share = 100 * _sums(spans, timed, f"phase_{name}_s") / whole
        top = np.minimum(base + share, 100.0)
        axes.stairs(top, edges, baseline=base, fill=True, color=colour, label=label)
        base = top
    axes.stairs(np.full_like(base, 100.0), edges, baseline=base, fill=True, color="#DDDDDD", label="other")
    axes.set_ylim(0, 100)
    axes.set_xlim(edges[0], edges[-1])
    axes.grid(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right center", frameon=False)
    return figure


def canvas(title: str, y_label: str, x_label: str = "optimizer step") -> tuple[Figure, Axes]:
    """An empty figure of 1200 x 675 pixels with one pair of axes over whole numbers."""
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", color=INK, fontweight="bold")
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return figure, axes


def _curve(axes: Axes, rows: Iterable[Row], key: str, label: str, colour: str, *, faint: bool = False) -> None:
    steps, values = _columns(rows, key)
    if len(steps):
        width, alpha = (0.8, 0.5) if faint else (1.8, 1.0)
        marker = "o" if len(steps) < _FEW else ""
        axes.plot(steps, values, color=colour, linewidth=width, alpha=alpha, marker=marker, markersize=4, label=label)


def _finished(figure: Figure, axes: Axes, *, legend: bool = True) -> Figure | None:
    """The figure with its legend; None where nothing was drawn."""
    if not axes.lines:
        return None
    if legend:
        axes.legend(frameon=False)
    return figure


def _timed(rows: Iterable[Row]) -> list[Row]:
    """The rows that tell their speed: all but that of the start."""
    return [row for row in rows if row.get("effective_step_time_s")]


def _columns(rows: Iterable[Row], key: str) -> tuple[Any, Any]:
    """Steps and values of the rows that have a number under `key`, as float arrays."""
    pairs = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    table = np.array(pairs, dtype=float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _spans(rows: Sequence[Row]) -> tuple[Any, Any]:
    """Cuts the rows into at most `_BINS` spans of equally many: borders in steps (spans + 1), each row's span."""
    count = min(_BINS, len(rows))
    spans = np.arange(len(rows)) * count // len(rows)
    firsts = np.searchsorted(spans, np.arange(count))
    steps = np.array([row["step"] for row in rows], dtype=float)
    return np.append(steps[firsts] - 1, steps[-1]), spans


def _sums(spans: Any, rows: Sequence[Row], key: str) -> Any:
    """The sum of a metric over each span; a row without it adds nothing."""
    return np.bincount(spans, weights=[row.get(key) or 0.0 for row in rows])


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG, whole or not at all; returns the path."""
    with replacing(path, "wb") as stream:
        figure.savefig(stream, format="png")
    return path
