"""A picture of several models side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eco.observe.plots import BLUE, GREY, INK, save

_PANELS = {
    "bits_per_byte": "held-out bits per byte (lower is better)",
    "recall_chrf": "chrF of recalled verses of training",
    "decoding_tokens_per_s": "decoding, tokens/s",
    "memory_gb": "training memory, GB",
}


def draw_comparison(models: Mapping[str, Mapping[str, Any]], baselines: Mapping[str, float], path: Path) -> Path:
    """Bars of the figures of each model; the best of the `baselines`, in bits per byte, as a line. Returns the path."""
    figure = Figure(figsize=(10, 6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    names = [*models]
    for axes, (key, title) in zip(figure.subplots(2, 2).flat, _PANELS.items(), strict=True):
        values = [models[name][key] or 0.0 for name in names]
        bars = axes.barh(names, values, color=BLUE)
        axes.bar_label(bars, fmt="{:,.3g}", padding=3, color=INK)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_title(title, loc="left", color=INK, fontweight="bold", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        if key == "bits_per_byte":
            best = min(baselines.values())
            axes.axvline(best, color=GREY, linestyle="--", linewidth=1)
            axes.annotate("5-gram Kneser-Ney", (best, -0.45), color=GREY, fontsize=8, ha="right", annotation_clip=False)
    return save(figure, path)
