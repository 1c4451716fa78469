"""Self-repair: a task that no attempt solved is tried again by a prompt that shows what failed (arXiv 2306.09896)."""

from collections.abc import Sequence

import numpy as np

from eco.evaluation.tasks import Question
from eco.improvement.attempt import Attempt, Group
from eco.improvement.prompts import with_answer
from eco.improvement.rollout import ask
from eco.inference.engine import Engine
from eco.inference.sampling import Sampling
from eco.sandbox import Sandbox


def retries(
    engine: Engine, groups: Sequence[Group], sandbox: Sandbox, sampling: Sampling, most: int
) -> list[list[Attempt]]:
    """Up to `most` further attempts for each group that has no pass, one after the other, until one passes.

    Each is shown the last answer that failed, and of its verdict what the task's `feedback` lets out, in the form that
    `eco.improvement.prompts` describes: nothing of what the hidden tests expect; but a program may tell its own
    argument, a hidden one, in the message of an exception. A group gets none that is solved or empty, or in which
    nothing was judged, and no more once the prompt fills the model's context. The n-th attempt has `retry` n, and is
    drawn with a seed of its own: the same failure may be shown twice.
    """
    tried: list[list[Attempt]] = [[] for _ in groups]
    for number in range(1, most + 1):
        failed = {index: attempt for index in range(len(groups)) if (attempt := _failed(groups[index], tried[index]))}
        questions = [Question(a.task, with_answer(a.task, a.completion.text, _said(a))) for a in failed.values()]
        reseeded = sampling.model_copy(update={"seed": _seed(sampling.seed, number)})
        for index, fresh in zip(failed, ask(engine, questions, sandbox, reseeded, 1, number), strict=True):
            tried[index] += fresh
    return tried


def _failed(group: Group, tried: Sequence[Attempt]) -> Attempt | None:
    """The last failure of a task that is still to be solved."""
    judged = [attempt for attempt in (*group, *tried) if attempt.judged]
    return None if not judged or any(attempt.passed for attempt in judged) else judged[-1]


def _said(failed: Attempt) -> str:
    return failed.task.feedback(failed.verdict)


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
