"""What happens around the training loop: the hooks, and the two that decide about its end and its memory.

A callback that carries state returns it from `state_dict`; the checkpoint stores it under the callback's name, so a
resumed run continues as if it had never stopped.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from eco.models.contract import Batch
from eco.training.config import CheckpointConfig

if TYPE_CHECKING:
    from eco.training.trainer import Trainer

Row = dict[str, Any]
"""One row of metrics.jsonl in the making: flat name -> number (or short text)."""


class Callback:
    """Hooks in the order in which the loop calls them; each does nothing unless overridden."""

    name = ""
    is_feature = False
    """True: an optional part of the method; it appears in the ledger and must count its effects there."""

    def start(self, trainer: "Trainer") -> None:
        """Once, before the first step of this session; `trainer.step` is where it starts."""

    def before_update(self, trainer: "Trainer", batch: Batch) -> None:
        """The clipped gradients of the step's `batch` are in `.grad`, and the optimizer steps next. Not called for a
        skipped step; called again if memory runs out before the update."""

    def after_update(self, trainer: "Trainer", batch: Batch, row: Row) -> None:
        """The weights have moved, `trainer.step` counts this step, and `.grad` may be overwritten; comes before `step`.
        Whoever changes weights here puts them back, or tells `trainer.model.weights_changed()`."""

    def step(self, trainer: "Trainer", row: Row) -> None:
        """After each step. Callbacks run in the trainer's order and may add to `row` for those after them."""

    def rolled_back(self, trainer: "Trainer") -> None:
        """After weights and state went back to the newest checkpoint, at `trainer.step`."""

    def end(self, trainer: "Trainer", reason: str) -> None:
        """Once, after the last step, before the process leaves the loop normally."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state, f"callback {self.name} was given state that it cannot take"


class Evaluation(Callback):
    """Measures on held-out data at the start, every `every` steps and at the end; knows the best step; stops early.

    measure: () -> metrics.
    decisive: those that tell which step is best, where they are lowest; a later one where all before it are equal.
    """

    name = "evaluation"

    def __init__(self, measure: Callable[[], Row], decisive: Sequence[str], every: int, patience: int) -> None:
        self.measure = measure
        self.decisive = decisive
        self.every = every
        self.patience = patience
        self.first: Row = {}
        self.latest: Row = {}
        self.best = [math.inf] * len(decisive)
        self.best_step = -1
        self._without_gain = 0

    def start(self, trainer: "Trainer") -> None:
        if not self.first:
            self.first = self._run(trainer)

    def step(self, trainer: "Trainer", row: Row) -> None:
        if not trainer.ending and (not self.every or trainer.step % self.every):
            return
        row.update(self._run(trainer))
        figures = [row[name] for name in self.decisive]
        if figures < self.best:
            self.best, self.best_step, self._without_gain = figures, trainer.step, 0
        else:
            self._without_gain += 1
            if self.patience and self._without_gain >= self.patience:
                trainer.stop(f"no better {self.decisive[0]} in {self._without_gain} evaluations")

    def _run(self, trainer: "Trainer") -> Row:
        with trainer.phases("eval"):
            self.latest = self.measure()
        return self.latest

    def state_dict(self) -> dict[str, Any]:
        best = None if self.best_step < 0 else self.best
        return {
            "first": self.first, "latest": self.latest, "best": best, "best_step": self.best_step,
            "without_gain": self._without_gain,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first, self.latest = state["first"], state["latest"]
        self.best = state["best"] or [math.inf] * len(self.decisive)
        self.best_step, self._without_gain = state["best_step"], state["without_gain"]


class Saving(Callback):
    """Saves every so many steps, every so many seconds, when the evaluation found a new best, and at the end.

    save: (best: bool) -> None writes the trainer's present state.
    """

    name = "saving"

    def __init__(self, save: Callable[[bool], None], config: CheckpointConfig, evaluation: Evaluation | None) -> None:
        self.save = save
        self.config = config
        self.evaluation = evaluation
        self._saved_step = -1
        self._saved_at = time.monotonic()

    def start(self, trainer: "Trainer") -> None:
        self._saved_step = trainer.step if trainer.step else -1
        self._saved_at = time.monotonic()

    def step(self, trainer: "Trainer", row: Row) -> None:
        is_best = self.evaluation is not None and self.evaluation.best_step == trainer.step
        by_step = self.config.every and trainer.step % self.config.every == 0
        by_time = self.config.seconds and time.monotonic() - self._saved_at >= self.config.seconds
        if is_best or by_step or by_time:
            self._save(trainer, is_best)

    def end(self, trainer: "Trainer", reason: str) -> None:
        if self._saved_step != trainer.step:
            self._save(trainer, best=False)

    def _save(self, trainer: "Trainer", best: bool) -> None:
        with trainer.phases("checkpoint"):
            self.save(best)
        self._saved_step, self._saved_at = trainer.step, time.monotonic()
