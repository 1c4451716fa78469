"""Mazes as people write them: `#` a wall, `.` or a space a free cell, one `S` and one `G`."""

import numpy as np
from numpy.typing import NDArray

from eco.tasks.puzzles.grids.maze_tokens import CHARSET, FREE, GOAL, START, WALL, encode
from eco.tasks.puzzles.grids.maze_walk import steps_from

_QUESTION = "".join(CHARSET[token - 1] for token in (WALL, FREE, START, GOAL)) + "."


def parse(text: str, size: int) -> list[NDArray[np.uint8]]:
    """The mazes of a text, (size * size,) each; blank lines come between them.

    Editors strip spaces at the ends of lines, so in a maze without dots the lines are filled with free cells to the
    length of its longest. A row of nothing but free cells has to be dots, or all of its spaces. More than one shortest
    path is no error: any of them solves the maze.

    Raises:
        ValueError: no maze; not square, or another size; a character without a meaning; no or several S or G; no way
            from S to G. The message names the line of the text.
    """
    lines = text.splitlines()
    mazes, start = [], 0
    for end, line in enumerate([*lines, ""]):
        if not line.strip() and len(line) != size:
            if end > start:
                mazes.append(_maze(lines[start:end], start + 1, size))
            start = end + 1
    if not mazes:
        raise ValueError("there is no maze; write one as lines of '#', '.', one 'S' and one 'G'")
    return mazes


def _maze(lines: list[str], first: int, size: int) -> NDArray[np.uint8]:
    """The maze of some lines, the first of which is line `first` of the text."""
    where = f"the maze in line {first}" if len(lines) == 1 else f"the maze in lines {first} to {first + len(lines) - 1}"
    rows = _rows(lines, first, size, where)
    inputs = encode("".join(rows).replace(".", " "))
    ends = [_only(inputs, token, where) for token in (START, GOAL)]
    if ends[1] not in steps_from(ends[0], inputs != WALL):
        raise ValueError(f"{where} has no way from S to G")
    return inputs


def _rows(lines: list[str], first: int, size: int, where: str) -> list[str]:
    """The lines, all of the same length and made of known characters."""
    width = max(map(len, lines))
    for number, line in enumerate(lines, first):
        for column, mark in enumerate(line, 1):
            if mark == "o":
                raise ValueError(f"line {number}, column {column}: 'o' marks the path, which is the answer")
            if mark not in _QUESTION:
                raise ValueError(f"line {number}, column {column}: {mark!r} has no meaning; use '#', '.', 'S' and 'G'")
    if (len(lines), width) != (size, size):
        square = "" if len(lines) == width else " is not square: it"
        raise ValueError(f"{where}{square} has {len(lines)} rows and {width} columns; {size} x {size} is expected")
    for number, line in enumerate(lines, first):
        if len(line) < width and any("." in other for other in lines):
            raise ValueError(f"line {number} has {len(line)} characters, the others of its maze {width}")
    return [line.ljust(width) for line in lines]


def _only(inputs: NDArray[np.uint8], token: int, where: str) -> int:
    found = np.flatnonzero(inputs == token)
    if len(found) != 1:
        raise ValueError(f"{where} has {len(found) or 'no'} cells {CHARSET[token - 1]}; exactly one is expected")
    return int(found[0])
