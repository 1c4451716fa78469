"""Attempts at tasks: completions drawn in batches, and judged in the sandbox while the next ones are drawn."""

from collections.abc import Sequence

from eco.evaluation.tasks import Question, ask_and_check
from eco.improvement.attempt import Attempt, Group
from eco.improvement.prompts import with_answer
from eco.inference.engine import Engine
from eco.inference.sampling import Sampling
from eco.sandbox import Sandbox
from eco.tasks.contract import Task


def attempt(
    engine: Engine, tasks: Sequence[Task], sandbox: Sandbox, sampling: Sampling, samples: int
) -> list[list[Attempt]]:
    """`samples` attempts at each task, in the order of the tasks; none where the prompt fills the model's context.

    They follow from the weights, the seed and the prompts, and not from the sandbox's number of workers. A completion
    ends at the stops of its task or of `sampling`.
    """
    return ask(engine, [Question(task, task.prompt) for task in tasks], sandbox, sampling, samples)


def refine(
    engine: Engine, groups: Sequence[Group], sandbox: Sandbox, sampling: Sampling, samples: int
) -> list[list[Attempt]]:
    """`samples` attempts at each group's task that are shown the best draft of the group (iGRPO, arXiv 2602.09000).

    The best is the one of the highest score, of equal ones the shortest, then the first. Whether it passed is not
    shown. No attempts where no draft was judged, or where the draft leaves no room in the model's context. The policy
    learns from these groups; drafts only shape their prompts, which each attempt holds.
    """
    best = [_best(group) for group in groups]
    questions = [Question(a.task, with_answer(a.task, a.completion.text)) for a in best if a is not None]
    refined = iter(ask(engine, questions, sandbox, sampling, samples))
    return [[] if draft is None else next(refined) for draft in best]


def ask(
    engine: Engine,
    questions: Sequence[Question],
    sandbox: Sandbox,
    sampling: Sampling,
    samples: int,
    retry: int = 0,
) -> list[list[Attempt]]:
    """`attempt` for tasks with prompts of their own. retry: what the attempts say of themselves."""
    drawn = ask_and_check(engine, questions, sandbox, sampling, samples)
    return [
        [Attempt(s.task, asked.prompt, s.completion, s.verdict, retry) for s in row if s.completion is not None]
        for asked, row in zip(questions, drawn, strict=True)
    ]


def _best(group: Group) -> Attempt | None:
    judged = [attempt for attempt in group if attempt.judged]
    return min(judged, key=lambda a: (-a.verdict.score, len(a.completion.text)), default=None)
