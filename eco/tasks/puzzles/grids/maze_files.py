"""The public Maze-Hard files: CSV with the columns source, q, a and rating, a maze in each row."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eco.tasks.puzzles.grids.maze_tokens import CHARSET, FREE, GOAL, PATH, START, encode
from eco.tasks.puzzles.grids.maze_walk import steps_from

PUBLISHED = (
    "Maze-Hard is published on Hugging Face as the data set sapientinc/maze-30x30-hard-1k; "
    "put its train.csv and test.csv into one folder and name it: data.path=FOLDER"
)


def read_mazes(path: Path, size: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """The questions and answers of a file in its order, each (size * size,).

    Raises:
        ValueError: no such file; a header without q and a; a malformed row, with its line.
    """
    if not path.is_file():
        raise ValueError(f"data.path: there is no file {str(path)!r}; {PUBLISHED}")
    with path.open(newline="", encoding="utf-8", errors="replace") as file:  # what it replaces, no maze holds
        reader = csv.DictReader(file)
        if not {"q", "a"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: the first line must name the columns q and a; {PUBLISHED}")
        for row in reader:
            try:
                yield _read_row(row["q"] or "", row["a"] or "", size)
            except ValueError as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from None


def _read_row(question: str, answer: str, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    for column, text in (("q", question), ("a", answer)):
        if len(text) != size * size:
            mend = f"; set data.size={side}" if (side := round(len(text) ** 0.5)) ** 2 == len(text) > 0 else ""
            raise ValueError(f"{column} has {len(text)} characters, {size} x {size} = {size * size} are expected{mend}")
        if unknown := sorted(set(text) - set(CHARSET)):
            raise ValueError(f"{column} holds {unknown[0]!r}; a maze is written with {CHARSET!r}")
    inputs, label = encode(question), encode(answer)
    for token, name in ((START, "S"), (GOAL, "G")):
        if (found := int((inputs == token).sum())) != 1:
            raise ValueError(f"q has {found} cells {name}, one is expected")
    if (inputs == PATH).any():
        raise ValueError("q holds 'o', which marks the path of the answer")
    if ((label != inputs) & ((label != PATH) | (inputs != FREE))).any():
        raise ValueError("a is not q with 'o' on some of its free cells")
    start, goal = (int(np.flatnonzero(inputs == token)[0]) for token in (START, GOAL))
    if goal not in steps_from(start, (label == PATH) | (label == START) | (label == GOAL)):
        raise ValueError("the cells 'o' of a do not lead from S to G")
    return inputs, label
