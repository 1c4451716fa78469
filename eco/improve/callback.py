"""Training calls the loop: rounds between its steps, on the weights that are being trained."""


from eco.improve.config import ImproveConfig
from eco.improve.loop import Loop, NothingPasses
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
        self._config: ImproveConfig = loop.config

    def step(self, trainer: Trainer, row: Row) -> None:
        since = trainer.step - max(1, self._config.start_after_steps)
        if since < 0 or since % self._config.generation_interval:
            return
        with trainer.phases("improve"):
            try:
                self.loop.begin()
                decision = self.loop.round()
            except NothingPasses as error:
                self.loop.say(f"{error}; training goes on")
                return
        row.update(self.loop.row())
        if decision.promote:
            trainer.ledger.count(self.name, self.loop.row()["improve_gain"])
