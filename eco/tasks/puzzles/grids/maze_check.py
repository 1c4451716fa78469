"""Whether an answer marks a shortest path, and where it goes wrong if not."""

import numpy as np
from numpy.typing import NDArray

from eco.tasks.puzzles.grids.maze_tokens import FREE, GOAL, PATH, START, WALL, character
from eco.tasks.puzzles.grids.maze_walk import steps_from
from eco.tasks.verdict import Verdict


def check(inputs: NDArray[np.uint8], answer: NDArray[np.uint8], label: NDArray[np.uint8] | None) -> Verdict:
    """Passes the label itself, and any shortest path: walls, S and G kept, and `o` on the cells of one path only.

    The score is the share of cells that agree with the label. Without a label, an answer that fails has as its score
    the steps that it leads from S over those of a shortest path, less for detours and stray marks; 0 where it changes
    walls, S or G.

    inputs, answer, label: tokens, (L,); a maze's label asks for every cell.
    """
    right = None if label is None else float(np.mean(answer == label))
    if right == 1:
        return Verdict("pass", 1.0)
    score, fault = _judge(inputs, answer)
    if fault:
        return Verdict("fail", score if right is None else right, fault)
    if right is None:
        return Verdict("pass", 1.0)
    return Verdict("pass", right, "a shortest path, not the expected one")


def _judge(inputs: NDArray[np.uint8], answer: NDArray[np.uint8]) -> tuple[float, str]:
    """How far the answer leads, 0 to 1, and what is wrong with it; nothing if it is a shortest path."""
    size = round(len(inputs) ** 0.5)
    changed = np.flatnonzero((answer != inputs) & ~((answer == PATH) & (inputs == FREE)))
    if len(changed):
        cell = int(changed[0])
        before, after = character(int(inputs[cell])), character(int(answer[cell]))
        return 0.0, f"changes {before!r} to {after!r} at {_place(cell, size)}"
    start, goal = (int(np.flatnonzero(inputs == token)[0]) for token in (START, GOAL))
    walked = steps_from(start, (answer == PATH) | (answer == START) | (answer == GOAL))
    shortest = steps_from(start, inputs != WALL)[goal]
    if goal not in walked:
        last = list(walked)[-1]
        return min(walked[last], shortest - 1) / shortest, f"breaks off at {_place(last, size)}"
    steps = walked[goal]
    if steps > shortest:
        return shortest / steps, f"a path of {steps + 1} cells where {shortest + 1} do"
    beside = int((answer == PATH).sum()) - (steps - 1)
    if beside:
        return steps / (steps + beside), f"{beside} {'cell' if beside == 1 else 'cells'} marked beside the path"
    return 1.0, ""


def _place(cell: int, size: int) -> str:
    row, column = divmod(cell, size)
    return f"row {row + 1}, column {column + 1}"
