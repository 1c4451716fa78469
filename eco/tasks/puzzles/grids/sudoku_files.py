"""The public Sudoku-Extreme data set: CSV files of 9x9 puzzles with the columns source, puzzle, answer and rating."""

import csv
import os
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from eco.tasks.puzzles.grids.sudoku_board import BOARDS, Digits, Sudoku, complete_units
from eco.tasks.puzzles.grids.sudoku_symmetry import Seen

_BOARD = BOARDS[9]
_BATCH = 1024


class SudokuFile:
    """One CSV file; millions of rows stay on the disk, and only those that are wanted are read and checked."""

    def __init__(self, folder: str, name: str) -> None:
        """
        Raises:
            ValueError: there is no such file.
        """
        self.path = os.path.join(folder, name)
        if not os.path.isfile(self.path):
            raise ValueError(
                f"no file {self.path}: data.path is the folder that holds train.csv and test.csv of Sudoku-Extreme, "
                "published on Hugging Face as the dataset sapientinc/sudoku-extreme; without it, puzzles are made here"
            )
        self._starts = array("q")  # where each line begins, in bytes
        with open(self.path, "rb") as file:
            position = 0
            for line in file:
                self._starts.append(position)
                position += len(line)

    def shuffled(self, seed: int, min_rating: int) -> Iterator[Sudoku]:
        """Rows whose rating is at least `min_rating` in a random order: neighbours in the file have one source.

        Raises:
            ValueError: a malformed row; the message names its line.
        """
        order = np.random.default_rng([seed]).permutation(np.arange(1, len(self._starts)))
        return self._read(order.tolist(), min_rating)

    def unseen(self, seed: int, min_rating: int, seen: Seen) -> Iterator[Sudoku]:
        """`shuffled` without rows that are equivalent to one that was seen."""
        rows = self.shuffled(seed, min_rating)
        while batch := [*islice(rows, _BATCH)]:
            new = seen.admit(np.stack([puzzle for puzzle, _ in batch]))
            yield from (row for row, is_new in zip(batch, new.tolist(), strict=True) if is_new)

    def _read(self, lines: Iterable[int], min_rating: int) -> Iterator[Sudoku]:
        """lines: which to read, counted from 0, the one with the columns' names."""
        with open(self.path, "rb") as file:
            for line in lines:
                file.seek(self._starts[line])
                try:
                    puzzle, answer, rating = _parse(file.readline())
                except ValueError as error:
                    raise ValueError(f"{self.path}, line {line + 1}: {error}") from None
                if rating >= min_rating:
                    yield puzzle, answer


def _parse(line: bytes) -> tuple[Digits, Digits, int]:
    """
    Raises:
        ValueError: what is wrong with the row.
    """
    fields = next(csv.reader([line.decode("utf-8", "replace")]), [])
    if len(fields) != 4:
        raise ValueError(f"{len(fields)} columns instead of 4: source, puzzle, answer, rating")
    _, puzzle, answer, rating = fields
    if not rating.strip().isdecimal():
        raise ValueError(f"the rating {rating!r} is not a whole number")
    puzzle_digits, answer_digits = _digits(puzzle, "puzzle"), _digits(answer, "answer")
    if not complete_units(answer_digits, _BOARD).all():
        raise ValueError("the answer does not hold every digit once in each row, column and box")
    if ((puzzle_digits != 0) & (puzzle_digits != answer_digits)).any():
        raise ValueError("the answer contradicts the puzzle's clues")
    return puzzle_digits, answer_digits, int(rating)


def _digits(text: str, column: str) -> Digits:
    cells = np.frombuffer(text.replace(".", "0").encode(), dtype=np.uint8) - np.uint8(ord("0"))
    if cells.size != _BOARD.length or (cells > _BOARD.size).any():
        raise ValueError(f"the {column} {text!r} is not {_BOARD.length} characters of 1 to 9 and '.'")
    return cells
