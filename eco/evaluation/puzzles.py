"""How well a recursive model solves puzzles it has not seen. All figures are of one checkpoint, after all its steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eco.data.puzzles.stream import PuzzleExamples
from eco.evaluation.intervals import wilson
from eco.evaluation.voting import Ranks, Votes, task_shares
from eco.inference.recursion import advance
from eco.models.contract import IGNORE, Batch, RecursiveModel, evaluating
from eco.models.layers.stablemax import stablemax_cross_entropy
from eco.tasks.puzzles.contract import PuzzleTask
from eco.training.precision import Precision

PASS_AT = (1, 2, 5, 10, 100, 1000)
"""Numbers of attempts for which the voted score is published (arXiv 2510.04871)."""


@dataclass(frozen=True)
class Marks:
    """What a model made of B puzzles in N steps.

    right: (B, N) bool, every cell asked for is right after each step.
    cells: (B,) the share of these cells that are right in the end.
    loss: (B,) the mean stablemax cross-entropy of these cells in the end, in nats.
    confidence: (B,) the halting head's probability, in the end, that the answer is right.
    answers: (B, L) uint8, in the end.
    """

    right: NDArray[np.bool_]
    cells: NDArray[np.float64]
    loss: NDArray[np.float64]
    confidence: NDArray[np.float64]
    answers: NDArray[np.uint8]

    @classmethod
    def joined(cls, parts: Sequence["Marks"]) -> "Marks":
        """
        Raises:
            ValueError: there is none, so nothing could be said of the model.
        """
        if not parts:
            raise ValueError("there is no puzzle to measure on; give more puzzles, or a larger data.held_out_puzzles")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


@torch.no_grad()
def mark(model: RecursiveModel, batch: Batch, precision: Precision) -> Marks:
    """Solves a batch in the model's full number of steps. The caller puts the model into evaluation mode."""
    tokens, targets, puzzle = (batch[name].to(precision.device) for name in ("tokens", "targets", "puzzle"))
    asked = targets != IGNORE
    assert asked.any(1).all(), "a puzzle that asks for nothing would count as solved"
    right = []
    with precision.autocast():
        question = model.encode(tokens, puzzle)
        for state, step in advance(model, question, model.start(question), model.max_steps):
            latent, last = state, step
            right.append(((step.answers == targets) | ~asked).all(1))
        logits, _ = model.read(latent)
    hits = ((last.answers == targets) & asked).sum(1)
    return Marks(
        right=torch.stack(right, 1).cpu().numpy(),
        cells=(hits.double() / asked.sum(1)).cpu().numpy(),
        loss=stablemax_cross_entropy(logits, targets).double().cpu().numpy(),
        confidence=last.confidence.cpu().numpy(),
        answers=last.answers.cpu().numpy().astype(np.uint8),
    )


def quick_measure(
    model: RecursiveModel, examples: PuzzleExamples, batch: int, precision: Precision, puzzles: int = 0
) -> dict[str, float]:
    """What is looked at during training: about `puzzles` evenly spaced held-out puzzles (0: all), no augmented copies.

    Returns `val_exact_accuracy` (share of puzzles with every cell right), `val_error` (1 minus that),
    `val_cell_accuracy`, `val_loss` (nats), all after the last step, and `val_puzzles`, how many were solved for it.

    Raises:
        ValueError: there is none.
    """
    chosen = np.flatnonzero(examples.variant == 0)
    if puzzles and puzzles < len(chosen):
        chosen = chosen[np.linspace(0, len(chosen) - 1, puzzles).round().astype(int)]
    with evaluating(model):
        marks = Marks.joined([mark(model, rows, precision) for _, rows in batches(examples, batch, chosen)])
    exact = float(marks.right[:, -1].mean())
    return {
        "val_exact_accuracy": exact,
        "val_error": 1 - exact,
        "val_cell_accuracy": float(marks.cells.mean()),
        "val_loss": float(marks.loss.mean()),
        "val_puzzles": len(chosen),
    }


def measure(
    model: RecursiveModel,
    examples: PuzzleExamples,
    task: PuzzleTask,
    identifiers: Sequence[str],
    batch: int,
    precision: Precision,
) -> dict[str, Any]:
    """The full report. identifiers: the names of the rows of the puzzle table. batch: puzzles solved at a time.

    Of the puzzles themselves, without their augmented copies:
    `puzzles`, how many; `exact_accuracy`, the share with every cell right, `..._low` and `..._high`, its 95 % interval;
    `cell_accuracy`; `loss` in nats; `valid_share`, of answers that keep the puzzle's rules, if it has any;
    `accuracy_by_step`, the exact accuracy after each step; `halt_accuracy`, how often the halting head tells rightly
    in the end whether the answer is right, and `confidence`, its mean probability of that.

    Where puzzles have rows of their own in the puzzle table also:
    `blank_exact_accuracy`, the same puzzles under the blank row: what the model knows without it;
    `tasks`, how many groups of puzzles; `single_score`, the mean over them of the share of their puzzles that one
    answer solves; `voted_score`, that with votes of all copies and as many attempts as the family allows, each with its
    interval; `voted_pass_at`, that by number of attempts; `votes`, copies for each puzzle, on average.

    Raises:
        ValueError: there is no puzzle.
    """
    marks, blank, valid = [], [], []
    poll = _Poll(task, examples, identifiers)
    with evaluating(model):
        for chosen, rows in batches(examples, batch):
            marks.append(mark(model, rows, precision))
            if task.has_rules:
                pairs = zip(_grids(rows["tokens"]), marks[-1].answers, strict=True)
                valid += [task.check(inputs, answer).outcome == "pass" for inputs, answer in pairs]
            if rows["puzzle"].any():
                blank.append(mark(model, {**rows, "puzzle": torch.zeros_like(rows["puzzle"])}, precision))
                poll.ask(chosen, rows)
                poll.cast(chosen, rows, marks[-1])
        report = _figures(Marks.joined(marks), valid)
        if not blank:
            return report
        single = poll.ranks()
        for chosen, rows in batches(examples, batch, np.flatnonzero(examples.variant)):
            poll.cast(chosen, rows, mark(model, rows, precision))
    without_row = _share("blank_exact_accuracy", Marks.joined(blank).right[:, -1])
    return report | without_row | _scores(single, poll.ranks(), task.attempts) | {"votes": poll.votes / len(single)}


def batches(
    examples: PuzzleExamples, batch: int, chosen: NDArray[np.int64] | None = None
) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    """At most `batch` examples at a time, with their numbers: those `chosen` (E,), or all but the augmented copies."""
    numbers = np.flatnonzero(examples.variant == 0) if chosen is None else chosen
    for first in range(0, len(numbers), batch):
        part = numbers[first : first + batch]
        yield part, examples.select(part)


def _figures(marks: Marks, valid: Sequence[bool]) -> dict[str, Any]:
    right = marks.right[:, -1]
    return {
        "puzzles": len(right),
        **_share("exact_accuracy", right),
        "cell_accuracy": float(marks.cells.mean()),
        "loss": float(marks.loss.mean()),
        **({"valid_share": float(np.mean(valid))} if valid else {}),
        "accuracy_by_step": marks.right.mean(axis=0).tolist(),
        "halt_accuracy": float(((marks.confidence > 0.5) == right).mean()),
        "confidence": float(marks.confidence.mean()),
    }


def _scores(single: Ranks, voted: Ranks, attempts: int) -> dict[str, Any]:
    return {
        "tasks": len({task for task, _ in voted}),
        **_share("single_score", task_shares(single, 1)),
        **_share("voted_score", task_shares(voted, attempts)),
        "voted_pass_at": {str(count): float(np.mean(task_shares(voted, count))) for count in PASS_AT},
    }


def _share(name: str, shares: Sequence[float] | NDArray[np.bool_]) -> dict[str, float]:
    """The mean of numbers from 0 to 1 under `name`, with its 95 % interval."""
    low, high = wilson(float(np.sum(shares)), len(shares))
    return {name: float(np.mean(shares)), f"{name}_low": low, f"{name}_high": high}


class _Poll:
    """The votes of augmented copies on the puzzles they are copies of, with the known answers."""

    def __init__(self, task: PuzzleTask, examples: PuzzleExamples, identifiers: Sequence[str]) -> None:
        self.votes = 0
        self._task = task
        self._examples = examples
        self._identifiers = identifiers
        self._cast = Votes()
        self._truths: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def ask(self, chosen: NDArray[np.int64], rows: Batch) -> None:
        """Notes the known answers of examples `chosen` (B,), which `rows` holds."""
        labels = rows["targets"].clamp(min=0)  # what is not asked for is 0 in a grid
        self._truths.update(self._originals(chosen, rows, _grids(labels)))

    def cast(self, chosen: NDArray[np.int64], rows: Batch, marks: Marks) -> None:
        for (question, grid), confidence in zip(
            self._originals(chosen, rows, marks.answers), marks.confidence.tolist(), strict=True
        ):
            self._cast.cast(question, grid, confidence)
            self.votes += 1

    def ranks(self) -> Ranks:
        """Where the right answer of each question stands, by the votes cast so far."""
        return {question: self._cast.rank(question, truth) for question, truth in self._truths.items()}

    def _originals(
        self, chosen: NDArray[np.int64], rows: Batch, grids: NDArray[np.uint8]
    ) -> Iterator[tuple[tuple[int, int], NDArray[np.uint8]]]:
        """For each example its (task, question), and its grid as the base puzzle has it."""
        for index, row, grid in zip(chosen.tolist(), rows["puzzle"].tolist(), grids, strict=True):
            question = int(self._examples.group[index]), int(self._examples.example[index])
            yield question, self._task.original(self._identifiers[row], grid)[1]


def _grids(tokens: Tensor) -> NDArray[np.uint8]:
    return tokens.numpy().astype(np.uint8)
