"""ARC-AGI (Chollet, arXiv 1911.01547): tell a rule from a few pairs of coloured grids, apply it to one more grid.

The protocol is that of HRM (arXiv 2506.21734) and TRM (arXiv 2510.04871), which is transductive: a model reads one grid
at a time and knows the task by its row in the puzzle table alone, so it must have trained on the pairs that an
evaluated task shows. Only the pairs that the task asks for are held out. A row that was never trained (the blank one)
tells nothing of the rule: what is solved without it was solved without understanding the task.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eco.config import LocalPath, setting
from eco.data.puzzles.store import Group
from eco.tasks.puzzles.contract import Cell, Grid, PuzzleConfig, PuzzleTask, Question, Split
from eco.tasks.puzzles.grids.arc_canvas import VOCAB_SIZE, Colours, corner, crop, draw, ends
from eco.tasks.puzzles.grids.arc_files import ArcTask, Pair, load_tasks, read_tasks, solutions_of
from eco.tasks.puzzles.grids.arc_variants import canonical, choose, undo
from eco.tasks.puzzles.grids.colours import PALETTE
from eco.tasks.verdict import Verdict


class Config(PuzzleConfig):
    puzzle: Literal["arc"] = setting("arc", "Puzzle family: ARC-AGI.", flat="puzzle")
    paths: tuple[LocalPath, ...] = setting(
        (), "Files or folders of ARC tasks as published (JSON); their every pair is trained on.", flat="data"
    )
    evaluated: tuple[LocalPath, ...] = setting(
        (), "Like paths, of tasks to evaluate; empty sets held_out_puzzles tasks of paths apart instead."
    )
    puzzles: int = setting(0, "Tasks of paths to train on; 0 takes all.", flat="puzzles", ge=0)
    held_out_puzzles: int = setting(
        100, "Tasks that are evaluated: of what they ask nothing is trained on, of what they show all is.", gt=0
    )
    size: int = setting(30, "Largest side of a grid in cells; tasks with a larger grid are left out.", ge=1, le=30)
    translate: bool = setting(
        True, "Put all but one pair of each training copy at a random place of the canvas.", flat="translate"
    )


def build(config: Config) -> "Arc":
    return Arc(config)


@dataclass(frozen=True)
class _Tasks:
    """Every task with the pairs that are trained on, and every evaluated one with those it asks for."""

    train: Sequence[tuple[ArcTask, Sequence[Pair]]]
    test: Sequence[tuple[ArcTask, Sequence[Pair]]]
    left_out: dict[str, int]


class Arc(PuzzleTask):
    vocab_size = VOCAB_SIZE
    attempts = 2
    has_rules = False

    def __init__(self, config: Config) -> None:
        self.config = config
        tasks = (*config.paths, *config.evaluated)
        self.files = (*tasks, *(str(solutions_of(Path(path))) for path in tasks))
        self.shape = (config.size, config.size)

    @property
    def left_out(self) -> dict[str, int]:
        """Reason -> how many tasks or pairs are in neither split because of it.

        Raises:
            ValueError: as `groups`.
        """
        return self._tasks.left_out

    def groups(self, split: Split) -> Iterator[Group]:
        train = split == "train"
        for task, pairs in self._tasks.train if train else self._tasks.test:
            yield self._group(task, pairs, translate=self.config.translate and train)

    def parse(self, text: str, name: str = "") -> list[Question]:
        """The test inputs of ARC tasks in their published JSON, under the id in the text, or `name` for a lone task."""
        return [
            Question(self._draw(pair.input), task.name)
            for task in read_tasks(text, "ARC task", name)
            for pair in self._fitting(task).asked
        ]

    def check(self, inputs: Grid, answer: Grid, label: Grid | None = None) -> Verdict:
        """Score: the share of right cells, 0 for a grid of another shape.

        Without a label an answer passes if it is a grid with its edge: what the task's rule is, only the label tells.
        """
        top, left = corner(self._canvas(inputs))
        canvas = self._canvas(answer)
        grid = crop(canvas, top, left)
        if not grid.size:
            return Verdict("fail", 0.0, "the answer holds no grid")
        if label is None:
            if not ends(canvas, top, left, grid.shape):
                return Verdict("fail", 0.0, f"no grid: its edge is broken, {_by(grid)} at most are whole")
            return Verdict("pass", 1.0, f"a grid of {_by(grid)}; whether it is the right one is not known")
        known = crop(self._canvas(label), top, left)
        if grid.shape != known.shape:
            return Verdict("fail", 0.0, f"the answer is {_by(grid)}, the right one {_by(known)}")
        wrong = int((grid != known).sum())
        if wrong:
            return Verdict("fail", 1 - wrong / known.size, f"{wrong} of {known.size} cells are wrong")
        return Verdict("pass", 1.0)

    def cells(self, inputs: Grid, answer: Grid | None = None) -> list[list[Cell]]:
        # A digit has its background's colour: it is read only where colours cannot be shown.
        top, left = corner(self._canvas(inputs))
        grid = crop(self._canvas(inputs if answer is None else answer), top, left)
        return [[Cell(str(c), PALETTE[c], PALETTE[c], given=answer is None) for c in row] for row in grid.tolist()]

    def original(self, name: str, answer: Grid) -> tuple[str, Colours]:
        return undo(name, crop(self._canvas(answer)))

    @cached_property
    def _tasks(self) -> _Tasks:
        """Both splits, every task once, without what would give away an answer.

        A task to train on that has a pair an evaluated one asks for is left out, up to symmetry and colours; so is such
        a pair from what evaluated tasks show, as six of the 400 published training tasks ask for a pair they show.
        """
        if not self.config.paths:
            raise ValueError(
                "data.paths is empty; name files or folders of ARC tasks (JSON), "
                "published at github.com/fchollet/ARC-AGI"
            )
        given, apart = load_tasks(self.config.paths), load_tasks(self.config.evaluated)
        tasks, judged = self._that_fit(given), self._that_fit(apart)
        source, candidates = ("evaluated", judged) if self.config.evaluated else ("paths", tasks)
        evaluated = self._at_most(candidates, self.config.held_out_puzzles, "held_out_puzzles", source)
        answers = {_form(pair) for task in evaluated for pair in task.asked}
        shown = {task.name: [pair for pair in task.shown if _form(pair) not in answers] for task in evaluated}
        telling = [task for task in evaluated if shown[task.name]]
        others = [task for task in tasks if task.name not in shown]
        safe = [task for task in others if answers.isdisjoint(map(_form, task.shown + task.asked))]
        trained = self._at_most(safe, self.config.puzzles or len(safe), "puzzles", "paths")
        left_out = {
            f"tasks with a grid larger than {self.config.size} x {self.config.size}": len(given + apart)
            - len(tasks + judged),
            "tasks with a pair that an evaluated task asks for": len(others) - len(safe),
            "evaluated tasks that show nothing but what is asked for": len(evaluated) - len(telling),
            "shown pairs that are asked for": sum(len(task.shown) - len(shown[task.name]) for task in evaluated),
        }
        return _Tasks(
            train=[(t, [*t.shown, *t.asked]) for t in trained] + [(t, shown[t.name]) for t in telling],
            test=[(t, t.asked) for t in telling],
            left_out=left_out,
        )

    def _that_fit(self, tasks: list[ArcTask]) -> list[ArcTask]:
        return [task for task in tasks if task.side <= self.config.size]

    def _at_most(self, tasks: list[ArcTask], count: int, wanted: str, source: str) -> list[ArcTask]:
        if len(tasks) < count:
            raise ValueError(
                f"data.{wanted} is {count}, but data.{source} has {len(tasks)} tasks for it with no grid larger than "
                f"{self.config.size} x {self.config.size}; ask for fewer, or give more tasks or a larger data.size"
            )
        # By a hash of the id: the choice is the same wherever the files come from, and a larger one holds the smaller.
        return sorted(tasks, key=lambda task: blake2b(task.name.encode()).digest())[:count]

    def _group(self, task: ArcTask, pairs: Sequence[Pair], translate: bool) -> Group:
        # Copies are told apart by what the task shows: the answers it asks for take no part in how it is trained.
        variants = choose(_known(task.shown), self.config.augmentations, self._generator(task, "variants"))
        places = self._generator(task, "places")
        inputs, labels = np.zeros((2, len(variants), len(pairs), self.config.size**2), np.uint8)
        still = places.integers(len(pairs), size=len(variants))  # the pair that stays in the corner
        for number, (before, after) in enumerate(_known(pairs)):
            share = places.random((len(variants), 2)) * translate * (still != number)[:, None]
            for (rows, grids), (_, answers) in zip(variants.views(before), variants.views(after), strict=True):
                room = self.config.size - np.maximum(grids.shape[1:], answers.shape[1:])
                tops, lefts = np.floor(share[rows] * (room + 1)).astype(np.int64).T
                inputs[rows, number] = draw(grids, self.config.size, tops, lefts)
                labels[rows, number] = draw(answers, self.config.size, tops, lefts)
        return Group(inputs, labels, variants.names(task.name))

    def _generator(self, task: ArcTask, purpose: str) -> np.random.Generator:
        digest = blake2b(f"{purpose} {task.name}".encode(), digest_size=8).digest()
        return np.random.default_rng((self.config.seed, int.from_bytes(digest)))

    def _fitting(self, task: ArcTask) -> ArcTask:
        whose = f"ARC task {task.name}".rstrip()
        for number, pair in enumerate(task.asked, 1):
            if max(pair.input.shape) > self.config.size:
                raise ValueError(
                    f"{whose}: test pair {number}: the input is {_by(pair.input)}, the largest grid of this model "
                    f"{self.config.size} x {self.config.size}; train one with a larger data.size"
                )
        return task

    def _draw(self, grid: Colours) -> Grid:
        origin = np.zeros(1, np.int64)
        tokens: Grid = draw(grid[None], self.config.size, origin, origin)[0]
        return tokens

    def _canvas(self, tokens: Grid) -> NDArray[np.uint8]:
        return tokens.reshape(self.shape)


def _known(pairs: Sequence[Pair]) -> list[tuple[Colours, Colours]]:
    """Pairs of the files, whose every output is there."""
    return [(pair.input, pair.output) for pair in pairs if pair.output is not None]


def _form(pair: Pair) -> bytes:
    ((before, after),) = _known([pair])
    return canonical(before, after)


def _by(grid: Colours) -> str:
    return f"{grid.shape[0]} x {grid.shape[1]}"
