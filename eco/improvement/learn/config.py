"""What an update can be told, whichever way it learns."""

from typing import Literal

from eco.config import Config, setting


class LearnConfig(Config):
    """Steps, rows, learning rate, and how much of what is learnt from the model made itself."""

    steps: int = setting(100, "Optimizer steps of a round.", flat="improve-steps", gt=0)
    rows: int = setting(32, "Verified rows in a step.", gt=0)
    lr: float = setting(0.0, "Peak learning rate of an update; 0: a third of the recipe's.", flat="improve-lr", ge=0)
    warmup: int = setting(10, "Steps over which a round's learning rate rises from 0.", ge=0)
    corpus_share: float = setting(
        0.5,
        "Share of the tokens of a step that come from the recipe's own corpus; below a half, what models wrote "
        "themselves would outweigh it.",
        flat="corpus-share",
        ge=0.5,
        lt=1,
    )
    backend: Literal["internal", "trl"] = setting(
        "internal", "Whose trainer makes the updates of a group-relative objective.", flat="rl-backend"
    )
