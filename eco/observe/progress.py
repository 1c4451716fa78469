"""The live display of a run: a bar on a terminal, plain lines elsewhere, nothing when it is switched off."""

import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

_LINE_EVERY_S = 10.0
"""Seconds between plain lines where the output is not a terminal."""


class Progress:
    """Shows step, loss, the held-out figure, tokens per second and the time left; a context manager.

    A resumed run starts at the step of its first `update`, and the time left is reckoned from the speed seen since.
    """

    def __init__(self, total_steps: int, enabled: bool = True, console: Console | None = None) -> None:
        self._console = console or Console()
        self._enabled = enabled
        self._total = total_steps
        self._bar = self._make_bar() if enabled and self._console.is_terminal else None
        self._task = self._bar.add_task("", total=total_steps, figures="starting") if self._bar else None
        self._held_out = ""
        self._first: tuple[int, float] | None = None
        self._last_line = -_LINE_EVERY_S

    def update(self, row: Mapping[str, Any], most_left: float = math.inf) -> None:
        """Shows a row of metrics. Of the held-out figure, which few rows have, the newest value stays.

        most_left: seconds after which the run ends even if steps are left.
        """
        if not self._enabled:
            return
        self._held_out = _held_out(row) or self._held_out
        step, now = row["step"], time.monotonic()
        if self._first is None:
            self._first = (step, now)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, figures=self._figures(row, now, most_left))
        elif now - self._last_line >= _LINE_EVERY_S or step >= self._total:
            self._last_line = now
            self.note(f"step {step}/{self._total}  {self._figures(row, now, most_left)}")

    def note(self, text: str) -> None:
        """Prints a line above the bar, as it is: no markup."""
        if self._enabled:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def _make_bar(self) -> Bar:
        steps = Column(no_wrap=True, min_width=2 * len(str(self._total)) + 1)
        bar = Column(ratio=1)
        figures = Column(no_wrap=True)
        return Bar(
            MofNCompleteColumn(table_column=steps),
            BarColumn(bar_width=None, table_column=bar),
            TextColumn("{task.fields[figures]}", markup=False, table_column=figures),
            console=self._console,
            refresh_per_second=2,
            expand=True,
        )

    def _figures(self, row: Mapping[str, Any], now: float, most_left: float) -> str:
        """`loss 3.21  held-out 1.98 bits/byte  8,100 tokens/s  2:05 left`, each where it is known."""
        loss = row.get("loss_ema", row.get("loss"))
        rate = row.get("tokens_per_s_ema", row.get("tokens_per_s"))
        parts = []
        if loss is not None:
            parts.append(f"loss {loss:.3f}")
        if self._held_out:
            parts.append(f"held-out {self._held_out}")
        if rate is not None:
            parts.append(f"{rate:,.0f} tokens/s")
        assert self._first is not None, "update sets it"
        first_step, began = self._first
        if first_step < row["step"] < self._total:
            left = (now - began) / (row["step"] - first_step) * (self._total - row["step"])
            parts.append(f"{_clock(max(0.0, min(left, most_left)))} left")
        return "  ".join(parts)


def _held_out(row: Mapping[str, Any]) -> str:
    if row.get("val_bits_per_byte") is not None:
        return f"{row['val_bits_per_byte']:.3f} bits/byte"
    if row.get("val_exact_accuracy") is not None:
        return f"{row['val_exact_accuracy']:.1%} solved"
    return ""


def _clock(seconds: float) -> str:
    """125 -> `2:05`, 3725 -> `1:02:05`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
