"""Test-time reinforcement learning: the majority of a task's completions says what is right (TTRL, arXiv 2504.16084).

No test and no expected value is read, so a model can learn from tasks that nobody has solved. The limit of the method
is in the same place: a majority that is wrong in the same way is believed.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat

from eco.improvement.attempt import Attempt, Group
from eco.sandbox import Sandbox
from eco.tasks.contract import NotJudged
from eco.tasks.verdict import Verdict


def by_majority(groups: Sequence[Group], sandbox: Sandbox, quorum: float = 0.5) -> list[list[Attempt]]:
    """The groups with new verdicts: a pass for the attempts whose behaviour the largest part of its group has.

    A behaviour is what `Task.behaviour` says: an answer, or the results of a program for the hidden inputs. Attempts
    without one fail and count against the share, but those that the sandbox could not run count neither way. A group
    whose largest part is below `quorum`, or as large as another, decides nothing and comes back empty.

    quorum: least share of the majority in its group, from 0 to 1.
    """
    everyone = [attempt for group in groups for attempt in group]
    with ThreadPoolExecutor(sandbox.workers, "vote") as pool:
        votes = iter(list(pool.map(_vote, everyone, repeat(sandbox))))
    return [_decided(group, [next(votes) for _ in group], quorum) for group in groups]


def _vote(attempt: Attempt, sandbox: Sandbox) -> str | NotJudged | None:
    try:
        return attempt.task.behaviour(attempt.completion.text, sandbox)
    except NotJudged as error:
        return error


def _decided(group: Group, votes: Sequence[str | NotJudged | None], quorum: float) -> list[Attempt]:
    winner = _winner([vote for vote in votes if not isinstance(vote, NotJudged)], quorum)
    if winner is None:
        return []
    return [replace(attempt, verdict=_verdict(vote, winner)) for attempt, vote in zip(group, votes, strict=True)]


def _winner(votes: Sequence[str | None], quorum: float) -> str | None:
    counts = Counter(vote for vote in votes if vote is not None).most_common(2)
    if not counts or counts[0][1] < quorum * len(votes):
        return None
    is_tie = len(counts) == 2 and counts[0][1] == counts[1][1]
    return None if is_tie else counts[0][0]


def _verdict(vote: str | NotJudged | None, winner: str) -> Verdict:
    if isinstance(vote, NotJudged):
        return Verdict("infrastructure", 0.0, str(vote))
    return Verdict("pass", 1.0) if vote == winner else Verdict("fail", 0.0, "not as the majority")
