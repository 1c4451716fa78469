"""Reads Sudokus as people write them: `.`, `0` or `_` for a blank, spaces and box lines where they like."""

import re
from collections.abc import Iterator

import numpy as np

from eco.tasks.puzzles.grids.sudoku_board import Board, Digits
from eco.tasks.puzzles.grids.sudoku_solver import solve

_BLANKS = ".0_"
_DECORATION = re.compile(r"[\s|+\-]")


def read_puzzles(text: str, board: Board) -> Iterator[Digits]:
    """The puzzles of a text, (L,) each: n lines of n cells, puzzles apart by empty lines, or all L cells in one line.

    Raises:
        ValueError: no puzzle, another size, a character without meaning, a digit twice in a unit, no solution or
            several; the message says where.
    """
    cells: list[int] = []
    start = 0
    found = False
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        row = _digits(line, number, board)
        if not cells:
            start = number
        if len(row) not in (0, board.size, board.length) or (len(row) == board.length and cells):
            expected = f"{board.size}" if cells else f"{board.size}, or all {board.length}"
            raise ValueError(f"line {number} has {len(row)} cells; a {board.size}x{board.size} Sudoku has {expected}")
        cells += row
        if len(cells) == board.length:
            yield _checked(np.array(cells, dtype=np.uint8), start, board)
            found, cells = True, []
        elif cells and not line.strip():
            raise ValueError(
                f"the puzzle that starts in line {start} ends after {len(cells) // board.size} of {board.size} rows"
            )
    if not found:
        raise ValueError(f"no Sudoku in the text: write {board.size} lines of {board.size} characters, '.' for a blank")


def _digits(line: str, number: int, board: Board) -> list[int]:
    row = []
    for column, character in enumerate(line, start=1):
        if character in _BLANKS:
            row.append(0)
        elif character.isascii() and character.isdigit() and int(character) <= board.size:
            row.append(int(character))
        elif not _DECORATION.match(character):
            raise ValueError(
                f"line {number}, character {column}: {character!r} is neither a digit from 1 to {board.size} "
                "nor a blank ('.', '0' or '_')"
            )
    return row


def _checked(puzzle: Digits, line: int, board: Board) -> Digits:
    """
    Raises:
        ValueError: the puzzle has not exactly one solution.
    """
    where = f"the puzzle that starts in line {line}"
    for unit, cells in enumerate(board.units):
        twice = np.flatnonzero(np.bincount(puzzle[cells], minlength=board.size + 1)[1:] > 1)
        if twice.size:
            raise ValueError(f"{where} has the digit {twice[0] + 1} twice in {board.unit_name(unit)}")
    solutions = solve(puzzle[None], board).count[0]
    if solutions != 1:
        raise ValueError(f"{where} has {'several solutions' if solutions else 'no solution'}")
    return puzzle
