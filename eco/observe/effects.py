"""Effects with their intervals, one under the other, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eco.observe.plots import BLUE, GREY, INK, ORANGE, save


class Effect(NamedTuple):
    """A difference with its 95 % interval; positive is better."""

    name: str
    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`better` or `worse` where the interval says so, else `open`."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "open"


_COLOURS = {"better": BLUE, "worse": ORANGE, "open": GREY}


def draw_effects(effects: Sequence[Effect], words: str, path: Path) -> Path:
    """Draws a point and an interval for each effect around the line of no effect; returns `path`, a PNG."""
    figure = Figure(figsize=(8, 1.8 + 0.45 * len(effects)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, effect in enumerate(effects):
        colour = _COLOURS[effect.verdict]
        axes.plot([effect.low, effect.high], [place, place], color=colour, linewidth=1.8, solid_capstyle="butt")
        axes.plot([effect.value], [place], "o", color=colour, markersize=6)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(effects)), [effect.name for effect in effects], color=INK)
    axes.set_ylim(len(effects) - 0.5, -0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title("What each feature brings", loc="left", color=INK, fontweight="bold")
    axes.set_xlabel(words, color=INK, fontsize=7, wrap=True)
    return save(figure, path)
