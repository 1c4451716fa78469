"""Sudoku on 4x4, 6x6 and 9x9 cells, made here or read from the public Sudoku-Extreme files.

Tokens: 0 padding, 1 a blank, 1 + d the digit d; L = n x n.
"""

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
from pydantic import model_validator

from eco.config import LocalPath, setting
from eco.data.puzzles.store import Group
from eco.tasks.puzzles.contract import Cell, Grid, PuzzleConfig, PuzzleTask, Question, Split
from eco.tasks.puzzles.grids import sudoku_symmetry, sudoku_text
from eco.tasks.puzzles.grids.sudoku_board import BOARDS, Sudoku, complete_units
from eco.tasks.puzzles.grids.sudoku_catalogue import choose
from eco.tasks.puzzles.grids.sudoku_files import SudokuFile
from eco.tasks.puzzles.grids.sudoku_generator import Wanted, inequivalent
from eco.tasks.puzzles.grids.sudoku_symmetry import Seen
from eco.tasks.verdict import Verdict

_TEST, _TRAIN, _VARIANTS = 0, 1, 2
"""What a seed is used for."""

_CLUE, _ANSWER = "#000000", "#1f5fbf"
_PLAIN, _SHADED = "#ffffff", "#eef1f5"


class Config(PuzzleConfig):
    """Puzzles made here have exactly one solution, and base puzzles are pairwise inequivalent within and across splits.

    Of the public files no training puzzle is equivalent to a held-out one; their answers are taken as they are.
    Up to symmetry 4x4 has 4708 puzzles on 2 complete grids, so that held-out 4x4 puzzles have solutions that were seen.
    """

    puzzle: Literal["sudoku"] = setting("sudoku", "Puzzle family: sudoku.", flat="puzzle")
    size: Literal[4, 6, 9] = setting(9, "Rows of the board; its boxes are 2x2, 2x3 or 3x3 cells.")
    clues: int = setting(0, "Fewest clues that a puzzle aims at; it keeps more where all are needed.", ge=0)
    most_clues: int | None = setting(
        None, "Most clues that a puzzle aims at: each draws its aim from clues to most_clues; none: as `clues`.", ge=1
    )
    min_guesses: int = setting(
        0, "Branches that a search has to take where singles do not suffice; with `path`, the rating's minimum.", ge=0
    )
    path: LocalPath | None = setting(
        None, "Folder with train.csv and test.csv of Sudoku-Extreme, instead of puzzles made here (9x9)."
    )

    @property
    def clue_range(self) -> tuple[int, int]:
        return self.clues, self.clues if self.most_clues is None else self.most_clues

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        fewest, most = self.clue_range
        if not fewest <= most < self.size**2:
            raise ValueError(
                f"clues {fewest} and most_clues {most}: the first must not be above the second, "
                f"and that must leave a blank among the {self.size**2} cells"
            )
        if self.path and (self.size != 9 or most > 0):
            raise ValueError("path names 9x9 puzzles as they are: leave out size, clues and most_clues, or path")
        return self


def build(config: Config) -> "Sudokus":
    return Sudokus(config)


class Sudokus(PuzzleTask):
    def __init__(self, config: Config) -> None:
        self._config = config
        self._board = BOARDS[config.size]
        self.shape = (config.size, config.size)
        self.files = (config.path,) if config.path else ()
        self.vocab_size = config.size + 2
        self._wanted = Wanted(config.clue_range, config.min_guesses)

    def groups(self, split: Split) -> Iterator[Group]:
        if split == "test":
            yield from (self._group(sudoku, _TEST, index, 0) for index, sudoku in enumerate(self._test))
            return
        index = -1
        for index, sudoku in enumerate(islice(self._train(), self._config.puzzles)):
            yield self._group(sudoku, _TRAIN, index, self._config.augmentations)
        self._refuse_fewer(index + 1, self._config.puzzles)

    def _group(self, sudoku: Sudoku, use: int, index: int, copies: int) -> Group:
        rng = np.random.default_rng([self._config.seed, _VARIANTS, use, index])
        variants = sudoku_symmetry.draw(rng, copies, self._board)
        inputs, labels = (np.concatenate([grid[None], variants(grid)]) for grid in sudoku)
        return Group(inputs[:, None] + np.uint8(1), labels[:, None] + np.uint8(1))

    @cached_property
    def _test(self) -> list[Sudoku]:
        config = self._config
        if config.path:
            rows = SudokuFile(config.path, "test.csv").shuffled(config.seed, config.min_guesses)
        elif config.size == 4:
            rows = iter(self._classes[: config.held_out_puzzles])
        else:
            rows = self._made(_TEST, config.held_out_puzzles, Seen(self._board))
        test = [*islice(rows, config.held_out_puzzles)]
        self._refuse_fewer(len(test), config.held_out_puzzles)
        return test

    def _train(self) -> Iterator[Sudoku]:
        """Puzzles that are not equivalent to one of the test; a file has more than are wanted."""
        config = self._config
        if config.size == 4:
            return iter(self._classes[config.held_out_puzzles :])
        seen = Seen(self._board)
        seen.admit(np.stack([puzzle for puzzle, _ in self._test]))
        if config.path:
            return SudokuFile(config.path, "train.csv").unseen(config.seed, config.min_guesses, seen)
        return self._made(_TRAIN, config.puzzles, seen)

    def _made(self, use: int, count: int, seen: Seen) -> Iterator[Sudoku]:
        return inequivalent([self._config.seed, use], count, self._board, self._wanted, seen)

    @cached_property
    def _classes(self) -> list[Sudoku]:
        """Puzzles of 4x4, one of each class that is wanted, the held-out ones first."""
        wanted = self._config.held_out_puzzles + self._config.puzzles
        classes = choose(self._wanted, wanted, [self._config.seed])
        self._refuse_fewer(len(classes), wanted)
        return classes

    def _refuse_fewer(self, found: int, wanted: int) -> None:
        if found < wanted:
            n = self._config.size
            where = f"in {self._config.path}" if self._config.path else "with these clues and guesses"
            raise ValueError(
                f"{wanted} inequivalent {n}x{n} Sudokus are wanted, only {found} {where} were found: want fewer "
                "(data.puzzles, data.held_out_puzzles) or others (data.clues, data.most_clues, data.min_guesses)"
            )

    def parse(self, text: str, name: str = "") -> list[Question]:
        return [Question(puzzle + np.uint8(1)) for puzzle in sudoku_text.read_puzzles(text, self._board)]

    def check(self, inputs: Grid, answer: Grid, label: Grid | None = None) -> Verdict:
        """With a label, the score is the share of right cells; without, of rows, columns and boxes that hold every
        digit once and keep their clues.
        """
        if label is not None:
            right = (answer == label)[label > 0]
            wrong = f"{np.count_nonzero(~right)} of {right.size} cells are wrong"
        else:
            units = self._board.units
            kept = ((inputs <= 1) | (answer == inputs))[units].all(axis=1)
            right = kept & complete_units(answer - np.uint8(1), self._board)
            names = [self._board.unit_name(unit) for unit in np.flatnonzero(~right).tolist()]
            wrong = f"incomplete, or with a changed clue: {', '.join(names)}"
        passed = bool(right.all())
        return Verdict("pass" if passed else "fail", float(right.mean()), "" if passed else wrong)

    def cells(self, inputs: Grid, answer: Grid | None = None) -> list[list[Cell]]:
        shown = inputs if answer is None else answer
        cells = [self._cell(place, int(inputs[place]), int(shown[place])) for place in range(self._board.length)]
        return [cells[row : row + self._config.size] for row in range(0, self._board.length, self._config.size)]

    def _cell(self, place: int, clue: int, token: int) -> Cell:
        row, column = divmod(place, self._config.size)
        shaded = (row // self._board.height + column // self._board.width) % 2
        return Cell(
            text=str(token - 1) if token > 1 else "",
            colour=_CLUE if clue > 1 else _ANSWER,
            background=_SHADED if shaded else _PLAIN,
            given=clue > 1,
        )
