"""What the method is compared with, at equal compute: each control takes one cause of a gain away.

random-reward: verdicts are shuffled over the round's attempts, so that as many pass, and which is chance.
more-pretraining: what would have been sampled is spent on further steps on what the model knew before.
frozen: no weight changes; what is left is the chance of drawing and of judging.

Everything else is as in the method but for the gate, which is kinder to them: see `as_control`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from eco.improvement.attempt import Attempt
from eco.improvement.gate import Decision
from eco.improvement.measure import Measurement


def shuffled(groups: Sequence[Sequence[Attempt]], seed: int) -> list[list[Attempt]]:
    """The same attempts, the verdicts of those that were judged dealt out anew among them."""
    judged = [attempt for group in groups for attempt in group if attempt.judged]
    order = np.random.default_rng((seed, len(judged))).permutation(len(judged))
    verdicts = iter([judged[at].verdict for at in order])
    return [[replace(a, verdict=next(verdicts)) if a.judged else a for a in group] for group in groups]


def extra_steps(sampled_tokens: int, tokens_per_step: float) -> int:
    """Further training steps that cost no less than sampling would have: each sampled token, which takes a forward
    pass, is counted as a trained one, which takes three times that."""
    return math.ceil(sampled_tokens / tokens_per_step)


def as_control(decision: Decision, before: Measurement, after: Measurement) -> Decision:
    """What becomes of a control's round: it is kept wherever it did not fall on the gate's tasks.

    So small gains, which a gate that wants to be sure takes back, add up, and no gain over a control is its loss.
    """
    keeps = not decision.stop and after.over(before) >= 0
    reason = f"a control that fell by {-after.over(before):.3f}" if not keeps else "a control that did not fall"
    return replace(decision, promote=keeps, reason=f"{reason}; the method would have {decision.reason}")
