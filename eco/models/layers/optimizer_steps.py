"""How many steps the optimizers of this process have made: for what is kept of weights until they are written to."""

from torch.optim.optimizer import register_optimizer_step_post_hook


class OptimizerSteps:
    """Counts the steps of all optimizers in the process, whoever calls them: torch's fused ones do not even count as
    writes to their parameters."""

    count = 0

    @classmethod
    def _stepped(cls, *_: object) -> None:
        cls.count += 1


register_optimizer_step_post_hook(OptimizerSteps._stepped)
