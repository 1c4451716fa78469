"""Search at test time: noisy copies of the latent state solve the puzzle too, and the halting head takes the surest.

The method is PTRM (arXiv 2605.19943): noise at every step lets a path leave the basin that catches the undisturbed
recursion, and the head that was trained to halt tells which path ended well. It needs no training of its own.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eco.config import Config, setting
from eco.inference.recursion import Step, advance
from eco.models.contract import Latent, RecursiveModel
from eco.tasks.puzzles.contract import Grid, PuzzleTask, Question
from eco.tasks.verdict import Verdict

_ROWS = 64
"""Questions solved at a time."""


class Search(Config):
    """How many paths are tried. One path is the model's own solution, and costs and gives what no search does."""

    latent_num_paths: int = setting(1, "Paths tried for each puzzle; the first has no noise.", ge=1)
    latent_planning_depth: int = setting(
        16, "Steps of a noisy path, which leaves the first one so many before the end.", ge=1
    )
    latent_noise: float = setting(
        0.3, "Standard deviation of the noise, in units of the state's root mean square.", ge=0, le=10
    )
    seed: int = setting(0, "Same seed: same noise.", ge=0)


@dataclass(frozen=True)
class Found:
    """What a search found for B puzzles with J paths of N steps.

    steps: the N steps of each row's chosen path, those before it left the first path included.
    path: (B,) int64, which one that is.
    scores: (B, J) float64, the confidence at the end of each path.
    by_paths: 1, 2, 4, ..., J -> the last step of the best of so many first paths: the curve over J in one search.
    """

    steps: list[Step]
    path: Tensor
    scores: Tensor
    by_paths: dict[int, Step]


@torch.no_grad()
def search(model: RecursiveModel, tokens: Tensor, puzzle: Tensor, steps: int, settings: Search) -> Found:
    """Solves `tokens` (B, L) int64, rows `puzzle` (B,) int64 of the puzzle table, in `steps` on every path.

    The noise of a path depends on the seed and its number alone, and all rows share it: what a row gets does not
    depend on its batch, and the paths of a small search are the first of a large one. So a row's best confidence never
    falls with the number of paths. Of equally sure paths the first counts.
    """
    own = min(settings.latent_planning_depth, steps)
    question = model.encode(tokens, puzzle)
    trunk = []
    branch = model.start(question)
    for state, step in advance(model, question, branch, steps - own):
        trunk.append(step)
        branch = state
    best = [step for _, step in advance(model, question, branch, own)]
    path = torch.zeros_like(puzzle)
    scores = [best[-1].confidence]
    by_paths = {1: best[-1]}
    for number in range(1, settings.latent_num_paths):
        noisy = [step for _, step in advance(model, question, branch, own, _noise(settings, number))]
        better = noisy[-1].confidence > best[-1].confidence
        best = [_where(better, new, old) for new, old in zip(noisy, best, strict=True)]
        path = torch.where(better, number, path)
        scores.append(noisy[-1].confidence)
        tried = number + 1
        if tried == settings.latent_num_paths or tried & number == 0:  # the last, or a power of two
            by_paths[tried] = best[-1]
    return Found(trunk + best, path, torch.stack(scores, 1), by_paths)


def _where(condition: Tensor, new: Step, old: Step) -> Step:
    answers = torch.where(condition[:, None], new.answers, old.answers)
    return Step(answers, torch.where(condition, new.confidence, old.confidence))


def _noise(settings: Search, path: int) -> Callable[[Latent], Latent]:
    """Adds fresh noise to a state at each call, drawn on the CPU, so equal on all devices."""
    key = hashlib.blake2b(f"{settings.seed} {path}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key, "little"))

    def disturb(latent: Latent) -> Latent:
        return Latent(*(_disturbed(part, settings.latent_noise, generator) for part in latent))

    return disturb


def _disturbed(part: Tensor, relative: float, generator: torch.Generator) -> Tensor:
    """(B, S, D) plus the same standard normal (S, D) for all rows, times `relative` and each row's root mean square."""
    normal = torch.randn(part.shape[1:], generator=generator).to(part.device)
    size = part.float().square().mean((1, 2), keepdim=True).sqrt()
    return (part + relative * size * normal).to(part.dtype)


@dataclass(frozen=True)
class Answer:
    """A question with what a model made of it in N steps on the chosen of J paths.

    steps: (N, L) uint8, the answer after each step. confidence: (N,) float64, the halting head's after each.
    settled: the step, counted from 1, since which the answer looks as in the end.
    verdict: what the task says of the answer by the puzzle's own rules.
    path: number of the chosen path; 0 is the one without noise. scores: (J,) float64, each path's last confidence.
    known: False where the puzzle table has names and the question's is none of them, so that the blank row, which was
        not trained then, took its place.
    """

    question: Question
    steps: NDArray[np.uint8]
    confidence: NDArray[np.float64]
    settled: int
    verdict: Verdict
    path: int
    scores: NDArray[np.float64]
    known: bool

    @property
    def grid(self) -> Grid:
        """The final answer, (L,) uint8."""
        final: Grid = self.steps[-1]
        return final


def solve(
    model: RecursiveModel,
    task: PuzzleTask,
    questions: Sequence[Question],
    identifiers: Mapping[str, int],
    autocast: Callable[[], AbstractContextManager[Any]],
    settings: Search,
    steps: int | None = None,
) -> list[Answer]:
    """Answers each question. identifiers: name -> row of the puzzle table. steps: None takes the model's own number.

    Raises:
        ValueError: `steps` is below 1.
    """
    count = model.max_steps if steps is None else steps
    if count < 1:
        raise ValueError(f"steps is {count}; a puzzle takes at least 1")
    answers = []
    for first in range(0, len(questions), _ROWS):
        asked = questions[first : first + _ROWS]
        found = _found(model, asked, identifiers, autocast, settings, count)
        grids = torch.stack([step.answers for step in found.steps], 1).cpu().numpy().astype(np.uint8)
        confidence = torch.stack([step.confidence for step in found.steps], 1).cpu().numpy()
        paths, scores = found.path.tolist(), found.scores.cpu().numpy()
        for i, question in enumerate(asked):
            verdict = task.check(question.inputs, grids[i, -1])
            known = question.name in identifiers or not any(identifiers.values())
            settled = _settled(task, question.inputs, grids[i])
            answers.append(Answer(question, grids[i], confidence[i], settled, verdict, paths[i], scores[i], known))
    return answers


def _found(
    model: RecursiveModel,
    questions: Sequence[Question],
    identifiers: Mapping[str, int],
    autocast: Callable[[], AbstractContextManager[Any]],
    settings: Search,
    steps: int,
) -> Found:
    device = next(model.parameters()).device
    tokens = torch.from_numpy(np.stack([question.inputs for question in questions])).long().to(device)
    rows = torch.tensor([identifiers.get(question.name, 0) for question in questions], device=device)
    with autocast():
        return search(model, tokens, rows, steps, settings)


def _settled(task: PuzzleTask, inputs: Grid, grids: NDArray[np.uint8]) -> int:
    """The step from which on the picture stays; cells that are not shown may change."""
    final = task.cells(inputs, grids[-1])
    step = len(grids)
    while step > 1 and task.cells(inputs, grids[step - 2]) == final:
        step -= 1
    return step
