"""INSTANT in a run: its figures in the rows, its state in the checkpoints."""

from typing import TYPE_CHECKING, Any

from eco.models.instant.instant import Instant
from eco.training.callbacks import Callback, Row

if TYPE_CHECKING:
    from eco.training.trainer import Trainer


class InstantCallback(Callback):
    """The feature itself is the model's, which counts what each backward pass saved."""

    name = "instant"

    def __init__(self, instant: Instant) -> None:
        self._instant = instant

    def step(self, trainer: "Trainer", row: Row) -> None:
        row.update(self._instant.metrics())

    def state_dict(self) -> dict[str, Any]:
        return self._instant.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._instant.load_state_dict(state)
