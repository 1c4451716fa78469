"""What a check says of an answer."""

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["pass", "fail"]
"""A puzzle's answer is right or it is not; tasks that run code have more ways to end."""


@dataclass(frozen=True)
class Verdict:
    """outcome: whether the answer counts. score: 0 to 1, 1 only for a pass. detail: for people, what is wrong."""

    outcome: Outcome
    score: float
    detail: str = ""
