"""Training calls the loop: rounds between its steps, on the weights that are being trained."""

from typing import Any

from eco.improvement.config import ImproveConfig
from eco.improvement.loop import Loop, NothingPasses
from eco.training.callbacks import Callback, Row
from eco.training.trainer import Trainer


class Improving(Callback):
    """A round at step `start_after_steps` and every `generation_interval` steps from there.

    Its state is the head of the loop: a training that goes back to a checkpoint takes the loop back with it.
    """

    name = "improve"
    is_feature = True

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.loop.head = None  # the head that counts is the checkpoint's, and not what a kill has left in the folder
        self._config: ImproveConfig = loop.config

    @property
    def unsolved(self) -> float:
        """1 - pass@1 on the gate's tasks; 1 before the first round."""
        return 1 - self.loop.pass_at_1 if self.loop.head else 1.0

    def step(self, trainer: Trainer, row: Row) -> None:
        since = trainer.step - max(1, self._config.start_after_steps)
        if since < 0 or since % self._config.generation_interval:
            return
        with trainer.phases("improve"):
            try:
                if self.loop.head:
                    self.loop.look_again()
                else:
                    self.loop.begin()
                before = self.loop.pass_at_1
                decision = self.loop.round()
            except NothingPasses as error:
                self.loop.say(f"{error}; training goes on")
                return
        row.update(self.loop.row())
        if decision.promote:
            trainer.ledger.count(self.name, self.loop.pass_at_1 - before)

    def state_dict(self) -> dict[str, Any]:
        return self.loop.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loop.load_state_dict(state)
