"""What a family of puzzles offers: a `Config` and `build(config) -> PuzzleTask`.

A file in this folder is a family; the recipe's `data.puzzle` is the file's name. A puzzle is a grid of small integers,
read row by row: L = rows x columns tokens, of which 0 is padding. The answer is a grid of the same size; cells that the
label leaves 0 are not asked for.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eco.config import setting
from eco.data.contract import DataConfig
from eco.data.puzzles.store import Group
from eco.tasks.verdict import Verdict

Grid = NDArray[np.uint8]
"""Tokens of one puzzle or answer, (L,)."""

Split = Literal["train", "test"]


class PuzzleConfig(DataConfig):
    """Common to all families: how many puzzles, and how many augmented copies of each."""

    seed: int = setting(0, "Chooses the puzzles, their copies and the order of the samples.", ge=0)
    puzzle: str = setting(..., "Puzzle family: the name of a file in eco/tasks/puzzles.", flat="puzzle")
    puzzles: int = setting(1000, "Base puzzles to train on.", flat="puzzles", gt=0)
    augmentations: int = setting(
        0, "Augmented copies of each training puzzle, of which an epoch sees one.", flat="augmentations", ge=0
    )
    held_out_puzzles: int = setting(500, "Base puzzles that training never sees, in any equivalent form.", gt=0)


@dataclass(frozen=True)
class Question:
    """A puzzle to be solved. name: its row in the puzzle table, if it was trained under one; empty is the blank row."""

    inputs: Grid
    name: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell as people see it. colour, background: `#rrggbb`; given: part of the question, not of the answer."""

    text: str
    colour: str = "#000000"
    background: str = "#ffffff"
    given: bool = False


class PuzzleTask(ABC):
    """A family of puzzles with its settings; everything it makes depends only on these."""

    shape: tuple[int, int]
    """Rows and columns of the grid; L is their product."""

    vocab_size: int
    """Distinct tokens, padding (0) included."""

    attempts: int = 1
    """Answers that a solver may hand in for one question."""

    has_rules: bool = True
    """Whether `check` can judge an answer without its label."""

    files: Sequence[str] = ()
    """Files and folders that `groups` reads."""

    @property
    def left_out(self) -> dict[str, int]:
        """Reason -> how much of the files is in neither split because of it."""
        return {}

    @abstractmethod
    def groups(self, split: Split) -> Iterator[Group]:
        """The puzzles of a split, a group for each base puzzle with its augmented copies, always in the same order.

        No puzzle of "test" is equivalent to one of "train".

        Raises:
            ValueError: files that are missing or malformed, or more puzzles wanted than there are.
        """

    @abstractmethod
    def parse(self, text: str, name: str = "") -> list[Question]:
        """The puzzles in a text as people write them. name: that of a puzzle which has one, but not in the text.

        Raises:
            ValueError: another size, a character that has no meaning, no or several solutions; the message says where.
        """

    @abstractmethod
    def check(self, inputs: Grid, answer: Grid, label: Grid | None = None) -> Verdict:
        """Whether `answer` solves `inputs`. label: the known answer; None judges by the puzzle's own rules."""

    @abstractmethod
    def cells(self, inputs: Grid, answer: Grid | None = None) -> list[list[Cell]]:
        """The puzzle, or its answer, as rows of cells to be drawn."""

    def original(self, name: str, answer: Grid) -> tuple[str, NDArray[np.uint8]]:
        """The base puzzle's name and the answer in its own frame, of any shape: undoes the augmentation `name` tells.

        Answers to several augmented copies of a question vote with what this returns.
        """
        return name, answer
