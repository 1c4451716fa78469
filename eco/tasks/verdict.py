"""What a check says of an answer."""

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["pass", "fail", "timeout", "memory", "crash", "tamper", "infrastructure"]
"""How a check ended. A puzzle's answer is right or it is not: pass or fail. A program that was run for its verdict can
also exceed its time or its memory, end its process, or be caught at forging a result; none of these counts as an
answer. infrastructure: the check itself could not be done, which says nothing of the answer and is never a reward."""


@dataclass(frozen=True)
class Verdict:
    """outcome: whether the answer counts. score: 0 to 1, 1 only for a pass. detail: for people, what is wrong."""

    outcome: Outcome
    score: float
    detail: str = ""
