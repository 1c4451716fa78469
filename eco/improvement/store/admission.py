"""Which of the judged attempts become rows: those that passed everything, are new, leak nothing, and have room.

Two answers to one task are the same where their programs have one shape, and near-duplicates where their texts share
most of their shingles. Answers to different tasks are never compared: `return text[::-1]` is a lesson for each task
that it solves, and the room of a task bounds how often one lesson is learnt.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eco.improvement.attempt import Attempt
from eco.improvement.store.config import StoreConfig
from eco.improvement.store.contamination import Contamination
from eco.improvement.store.minhash import Signature, signature, similarity
from eco.improvement.store.row import Row, digest, row_id, task_digest
from eco.improvement.store.shapes import Shapes, shapes
from eco.sandbox import Sandbox

Fate = Literal["duplicate", "near_duplicate", "contaminated", "over_cap", "admitted"]


@dataclass(frozen=True)
class Origin:
    """What all attempts of a round have in common; see `Row`."""

    round: int
    model: str
    sampling: Mapping[str, Any]
    source: Literal["model", "reference"] = "model"
    tier: Literal["A", "B"] = "A"


@dataclass(frozen=True)
class Admitted:
    """rows: the new ones, in the order of the attempts. removed: ids of stored rows that make room for them.

    funnel: drawn >= judged >= passed = duplicate + near_duplicate + contaminated + over_cap + admitted; and removed.
    """

    rows: list[Row]
    removed: list[str]
    funnel: dict[str, int]


def admit(
    attempts: Sequence[Attempt],
    stored: Sequence[Row],
    origin: Origin,
    contamination: Contamination,
    sandbox: Sandbox,
    config: StoreConfig,
) -> Admitted:
    """Sorts the attempts of a round; of equal ones the first is taken.

    stored: the content of the version that the new rows are added to, oldest first.

    Raises:
        ValueError: the sandbox failed.
    """
    judged = [attempt for attempt in attempts if attempt.judged]
    passed = [attempt for attempt in judged if attempt.passed]
    found = shapes([attempt.prompt + attempt.completion.text for attempt in passed], sandbox)
    known, fates, rows = _Known(stored, config), Counter[str](), list[Row]()
    for attempt, shape in zip(passed, found, strict=True):
        row = _row(attempt, shape, origin)
        fate = known.fate(row, (row.document, shape) in contamination)
        fates[fate] += 1
        if fate == "admitted":
            rows.append(row)
    removed = _surplus(stored, rows, config)
    counts: dict[str, int] = {"drawn": len(attempts), "judged": len(judged), "passed": len(passed)}
    kinds: tuple[Fate, ...] = ("duplicate", "near_duplicate", "contaminated", "over_cap", "admitted")
    return Admitted(rows, removed, counts | {kind: fates[kind] for kind in kinds} | {"removed": len(removed)})


class _Known:
    """What is in the store, and what of this round comes into it."""

    def __init__(self, stored: Sequence[Row], config: StoreConfig) -> None:
        self._config = config
        self._ids = {row.id for row in stored}
        self._completions: dict[str, list[str]] = {}
        for row in stored:
            self._completions.setdefault(row.task, []).append(row.completion)
        self._signatures: dict[str, list[Signature]] = {}
        self._admitted = Counter[str]()

    def fate(self, row: Row, contaminated: bool) -> Fate:
        """Decides on the next row and remembers it where it is admitted."""
        if row.id in self._ids:
            return "duplicate"
        others, own = self._of_task(row.task), signature(row.completion)
        if any(similarity(own, other) >= self._config.near_duplicate for other in others):
            return "near_duplicate"
        if contaminated:
            return "contaminated"
        if self._admitted[row.task] == self._config.per_task or self._admitted.total() == self._config.total:
            return "over_cap"
        self._ids.add(row.id)
        others.append(own)
        self._admitted[row.task] += 1
        return "admitted"

    def _of_task(self, task: str) -> list[Signature]:
        if task not in self._signatures:
            self._signatures[task] = [signature(text) for text in self._completions.get(task, [])]
        return self._signatures[task]


def _row(attempt: Attempt, shape: Shapes, origin: Origin) -> Row:
    document = attempt.prompt + attempt.completion.text
    return Row(
        id=row_id(shape[0] if shape else digest(document.strip()), attempt.task.name),
        task=attempt.task.name,
        prompt=attempt.prompt,
        completion=attempt.completion.text,
        source=origin.source,
        tier=origin.tier,
        retry=attempt.retry,
        round=origin.round,
        outcome=attempt.verdict.outcome,
        score=attempt.verdict.score,
        sampling=origin.sampling,
        model=origin.model,
        tests=task_digest(attempt.task),
    )


def _surplus(stored: Sequence[Row], new: Sequence[Row], config: StoreConfig) -> list[str]:
    """The oldest stored rows, as many as a task or the store has too many of when the new ones have come."""
    of_task = Counter(row.task for row in [*stored, *new])
    surplus, kept = list[str](), list[str]()
    for row in stored:
        full = of_task[row.task] > config.per_task
        of_task[row.task] -= full
        (surplus if full else kept).append(row.id)
    too_many = max(0, len(kept) + len(new) - config.total)
    return surplus + kept[:too_many]
