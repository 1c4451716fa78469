"""Puzzles as people see them: coloured text for a terminal, and a picture of how an answer came about."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.style import Style
from rich.text import Text

from eco.files import replacing
from eco.observe.plots import INK, ORANGE

_GAP = 4
"""Columns between two grids that stand side by side."""

_HEIGHT = 7.0
"""Inches. The puzzle and its answer take half of it each, the steps share it."""

_MOST_STEPS = 16
"""Steps in one picture; of more, as many at even distances."""

_SMALLEST_FONT = 3.5
"""Points. Smaller characters cannot be read and are left to the colours."""


class Cell(Protocol):
    """One cell: a character or two, its colour and its background as `#rrggbb`, whether the puzzle gave it."""

    @property
    def text(self) -> str: ...
    @property
    def colour(self) -> str: ...
    @property
    def background(self) -> str: ...
    @property
    def given(self) -> bool: ...


Cells = Sequence[Sequence[Cell]]
"""Rows of cells, as many in each; an answer may also have none."""


@dataclass(frozen=True)
class Panel:
    """A grid and the words over or under it."""

    words: str
    cells: Cells


def as_text(panels: Sequence[Panel], width: int, colour: bool) -> Text:
    """The grids side by side in `width` columns if they fit, else one under the other; a cell takes two columns.

    colour: False draws with characters alone, for files, pipes and NO_COLOR. With colours, what was given is bold.
    """
    blocks = [[Text(panel.words), *(_coloured if colour else _plain)(panel.cells)] for panel in panels]
    widths = [max(line.cell_len for line in block) for block in blocks]
    if sum(widths) + _GAP * (len(blocks) - 1) > width:
        return Text("\n\n").join(Text("\n").join(block) for block in blocks)
    lines = []
    for parts in zip_longest(*blocks, fillvalue=Text()):
        line = Text()
        for part, columns in zip(parts, widths, strict=True):
            line.append(" " * (_GAP if line else 0)).append_text(part).append(" " * (columns - part.cell_len))
        lines.append(line)
    return Text("\n").join(lines)


def rows_of(cells: Cells) -> list[str]:
    """Each row as characters, a space between the cells: an empty cell is a dot, a dark empty one #."""
    return [" ".join(cell.text or ("#" if _is_dark(cell.background) else ".") for cell in row) for row in cells]


def _plain(cells: Cells) -> list[Text]:
    return [Text(row) for row in rows_of(cells)]


def _coloured(cells: Cells) -> list[Text]:
    return [
        Text.assemble(*((f"{c.text:<2.2}", Style(color=c.colour, bgcolor=c.background, bold=c.given)) for c in row))
        for row in cells
    ]


def _is_dark(colour: str) -> bool:
    red, green, blue = to_rgb(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.5  # luma as in ITU-R BT.601


def draw_solution(path: Path, puzzle: Panel, answer: Panel, steps: Sequence[Panel]) -> Path:
    """A PNG of the puzzle over its answer, and beside them the answer after each step.

    Of more than 16 steps, 16 at even distances are shown, the first and the last among them. A cell that is not as in
    the step shown before has an orange frame.
    """
    shown = [steps[i] for i in chosen(len(steps))]
    rows = max(2, math.ceil(math.sqrt(len(shown))))
    columns = math.ceil(len(shown) / rows)
    right = _HEIGHT * columns / rows
    figure = Figure(figsize=(_HEIGHT / 2 + right, _HEIGHT), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left_part, right_part = figure.subfigures(1, 2, squeeze=False, width_ratios=[_HEIGHT / 2, right])[0]
    for axes, panel in zip(left_part.subplots(2, 1), (puzzle, answer), strict=True):
        _draw(axes, panel.cells, _HEIGHT / 2)
        axes.set_title(panel.words, color=INK, fontweight="bold", fontsize=11)
    for i, axes in enumerate(right_part.subplots(rows, columns, squeeze=False).ravel()):
        if i >= len(shown):
            axes.set_axis_off()
            continue
        _draw(axes, shown[i].cells, _HEIGHT / rows)
        axes.set_xlabel(shown[i].words, color=INK, fontsize=8)
        if i > 0:
            _frame_changes(axes, shown[i - 1].cells, shown[i].cells, _HEIGHT / rows)
    with replacing(path, "wb") as stream:
        figure.savefig(stream, format="png")
    return path


def chosen(count: int) -> list[int]:
    """Numbers of the steps that a picture of `count` steps shows."""
    most = min(count, _MOST_STEPS)
    return [round(i * (count - 1) / max(1, most - 1)) for i in range(most)]


def _draw(axes: Axes, cells: Cells, inches: float) -> None:
    """One grid in a place of `inches` by `inches`."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if not cells:
        return
    rows, columns = len(cells), len(cells[0])
    axes.imshow([[to_rgb(cell.background) for cell in row] for row in cells])
    borders: dict[str, Any] = {"color": "#B8B8B8", "linewidth": 0.4, "clip_on": False}
    axes.hlines(np.arange(rows + 1) - 0.5, -0.5, columns - 0.5, **borders)
    axes.vlines(np.arange(columns + 1) - 0.5, -0.5, rows - 0.5, **borders)
    size = 0.55 * _points(cells, inches)
    if size < _SMALLEST_FONT:
        return
    for y, row in enumerate(cells):
        for x, cell in enumerate(row):
            if cell.text:
                weight = "bold" if cell.given else "normal"
                label = axes.text(x, y, cell.text, color=cell.colour, fontsize=size, fontweight=weight)
                label.set(ha="center", va="center_baseline", in_layout=False)


def _frame_changes(axes: Axes, before: Cells, after: Cells, inches: float) -> None:
    frames = [
        Rectangle((x - 0.5, y - 0.5), 1, 1)
        for y, row in enumerate(after)
        for x, cell in enumerate(row)
        if y >= len(before) or x >= len(before[y]) or cell != before[y][x]
    ]
    width = min(1.5, 0.08 * _points(after, inches)) if frames else 0.0
    axes.add_collection(PatchCollection(frames, facecolor="none", edgecolor=ORANGE, linewidth=width, clip_on=False))


def _points(cells: Cells, inches: float) -> float:
    """Side of a cell: 72 points are an inch, and words and borders take 15 %."""
    return 0.85 * 72 * inches / max(len(cells), len(cells[0]))
