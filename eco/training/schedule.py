"""The learning rate's factor at a step: linear warm-up, then cosine, warm-up-stable-decay, or constant."""

import math

from eco.training.config import TrainConfig


def learning_rate_factor(config: TrainConfig, step: int, tokens_per_step: int = 0) -> float:
    """Factor on the peak learning rate for the optimizer step number `step` (the first is 0).

    The decay ends with the budget of steps, or with that of tokens where it is used up first; a budget of minutes is
    no part of it, for then the losses would depend on the machine's speed. A pure function of the step, so that a
    resumed run needs no state for it. Cosine: Loshchilov and Hutter, arXiv 1608.03983; wsd decays linearly over the
    last `decay_share` of the steps (MiniCPM, arXiv 2404.06395).
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    steps = config.steps
    if config.tokens and tokens_per_step:
        steps = min(steps, math.ceil(config.tokens / tokens_per_step))
    decaying = steps - config.warmup
    if config.schedule == "wsd":
        decaying = min(decaying, math.ceil(steps * config.decay_share))
    start = steps - decaying
    progress = min(1.0, max(0.0, (step - start + 1) / max(1, decaying)))
    fall = progress if config.schedule == "wsd" else (1 - math.cos(math.pi * progress)) / 2
    return 1.0 - (1.0 - config.final_lr) * fall
