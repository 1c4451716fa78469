"""What each attempt is worth beside the others at the same prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eco.improvement.attempt import Attempt, Group
from eco.improvement.learn.objectives import ObjectiveConfig
from eco.inference.completion import Completion

Floats = NDArray[np.float64]

STD_FLOOR = 1e-4
"""Added to a group's standard deviation before it divides."""


@dataclass(frozen=True)
class Weighed:
    """completions: of the groups to learn from. advantages: (B,) of each.

    zero_std: the share of judged groups that were skipped because all their attempts passed, or none.
    pass_rate, distinct: over all judged attempts, the shares that passed and whose text is new in their group.
    """

    completions: list[Completion]
    advantages: Floats
    zero_std: float
    pass_rate: float
    distinct: float


def weigh(groups: Sequence[Group], config: ObjectiveConfig) -> Weighed:
    """The advantages of all attempts in groups whose outcomes differ (dynamic sampling, DAPO, arXiv 2503.14476).

    An attempt that was not judged is in no group. Neither is it a baseline for others that they were asked something
    else, as in a retry: attempts at other prompts of the same task are a group of their own.
    """
    judged = [part for group in groups for part in _by_prompt([a for a in group if a.judged])]
    mixed = [group for group in judged if len({attempt.passed for attempt in group}) == 2]
    count = max(1, sum(map(len, judged)))
    values = [advantages(np.array([reward(a, config) for a in group]), config) for group in mixed]
    return Weighed(
        completions=[attempt.completion for group in mixed for attempt in group],
        advantages=np.concatenate([np.zeros(0), *values]),
        zero_std=1 - len(mixed) / max(1, len(judged)),
        pass_rate=sum(attempt.passed for group in judged for attempt in group) / count,
        distinct=sum(len({attempt.completion.text for attempt in group}) for group in judged) / count,
    )


def reward(attempt: Attempt, config: ObjectiveConfig) -> float:
    """`success` only for a full pass; else `fail`, or with partial credit the way between them that the score says."""
    if attempt.passed:
        return config.success
    return config.fail + (config.success - config.fail) * attempt.verdict.score * config.partial_credit


def advantages(rewards: Floats, config: ObjectiveConfig) -> Floats:
    """(G,) rewards of one group, at least 2 -> (G,) advantages, exactly 0 where all rewards are equal.

    rloo (arXiv 2402.14740) takes the mean of the others as baseline. The rest take the mean of all, as GRPO
    (arXiv 2402.03300) does, whose division by the unbiased standard deviation dr_grpo (arXiv 2503.20783) leaves out.
    """
    shifted: Floats = rewards - rewards[0]  # the mean of equal rewards may differ from them; that of zeros does not
    total, count = float(shifted.sum()), len(shifted)
    if config.name == "rloo":
        return shifted - (total - shifted) / (count - 1)
    centred = shifted - total / count
    if config.name == "dr_grpo" or not config.normalise:
        return centred
    return centred / (float(shifted.std(ddof=1)) + STD_FLOOR)


def _by_prompt(group: Group) -> list[list[Attempt]]:
    parts: dict[str, list[Attempt]] = {}
    for attempt in group:
        parts.setdefault(attempt.prompt, []).append(attempt)
    return list(parts.values())
