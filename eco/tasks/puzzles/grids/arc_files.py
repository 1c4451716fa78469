"""ARC tasks from the JSON in which they are published: one file for each task, or one that maps ids to tasks."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eco.tasks.puzzles.grids.arc_canvas import Colours


@dataclass(frozen=True)
class Pair:
    """An input grid and the output that the task's rule makes of it; None where it is not known."""

    input: Colours
    output: Colours | None

    @property
    def side(self) -> int:
        """The longest side of both, in cells."""
        sides: list[int] = [side for grid in (self.input, self.output) if grid is not None for side in grid.shape]
        return max(sides)


@dataclass(frozen=True)
class ArcTask:
    """name: its id, empty where the text gave none. The rule is to be told from `shown` and applied to `asked`."""

    name: str
    shown: tuple[Pair, ...]
    asked: tuple[Pair, ...]

    @property
    def side(self) -> int:
        """The longest side of any of its grids, in cells."""
        return max(pair.side for pair in self.shown + self.asked)


def read_tasks(text: str, where: str, name: str = "") -> list[ArcTask]:
    """The tasks in a JSON text: a task (`name` is its id), or a mapping of ids to tasks. where: begins the errors.

    Raises:
        ValueError: no JSON, or no ARC task; the message names the task, the pair and the row.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    if not isinstance(document, dict) or not document:
        raise ValueError(f'{where}: not an ARC task; it looks like {{"train": [pairs], "test": [pairs]}}')
    if "train" in document or "test" in document:
        return [_task(document, where, name)]
    return [_task(task, f"{where}: task {key}", key) for key, task in document.items()]


def load_tasks(paths: Iterable[str]) -> list[ArcTask]:
    """The tasks of all files, folders at any depth included; of several with one id the first.

    The answers of `..._challenges.json` are in `..._solutions.json` beside it, as on Kaggle.

    Raises:
        ValueError: a path is not there or holds no JSON, a file is malformed, or the answer to a test input is missing.
    """
    tasks: dict[str, ArcTask] = {}
    for file in [file for path in paths for file in _files(Path(path))]:
        for task in read_tasks(_with_solutions(file), str(file), file.stem):
            if any(pair.output is None for pair in task.asked):
                raise ValueError(
                    f"{file}: task {task.name}: a test input has no output, so its answer cannot be judged; "
                    "put the file of solutions (..._solutions.json) beside it, or leave the file out"
                )
            tasks.setdefault(task.name, task)
    return list(tasks.values())


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.json") if not file.stem.endswith("_solutions"))
        if not files:
            raise ValueError(f"{path}: no .json file in this folder; give a file or folder of ARC tasks")
        return files
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder; ARC-AGI is published at github.com/fchollet/ARC-AGI")
    return [path]


def solutions_of(file: Path) -> Path:
    """Where the outputs of a file's test pairs are, if they are not in it."""
    return file.with_name(file.name.replace("_challenges", "_solutions"))


def _with_solutions(file: Path) -> str:
    """The text of a file of tasks, the outputs of its test pairs filled in from the solutions beside it."""
    try:
        text = file.read_text(encoding="utf-8-sig")  # Windows editors begin with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not JSON: {error}") from None
    beside = solutions_of(file)
    if beside == file or not beside.is_file():
        return text
    try:
        tasks = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: not JSON: {error}") from None
    try:
        for name, outputs in json.loads(beside.read_text(encoding="utf-8")).items():
            for pair, output in zip(tasks[name]["test"], outputs, strict=True):
                pair["output"] = output
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{beside}: does not fit {file.name}: {error!r}") from None
    return json.dumps(tasks)


def _task(task: Any, where: str, name: str) -> ArcTask:
    shown, asked = (_pairs(task, side, where) for side in ("train", "test"))
    for number, pair in enumerate(shown, 1):
        if pair.output is None:
            raise ValueError(f"{where}: train pair {number}: no output; only test pairs may lack it")
    return ArcTask(name, shown, asked)


def _pairs(task: Any, side: str, where: str) -> tuple[Pair, ...]:
    pairs = task.get(side) if isinstance(task, dict) else None
    if not isinstance(pairs, list) or not pairs:
        raise ValueError(f'{where}: no pairs under "{side}"; a task has at least one there')
    return tuple(_pair(pair, f"{where}: {side} pair {number}") for number, pair in enumerate(pairs, 1))


def _pair(pair: Any, where: str) -> Pair:
    if not isinstance(pair, dict) or "input" not in pair:
        raise ValueError(f'{where}: no input; a pair looks like {{"input": rows, "output": rows}}')
    output = pair.get("output")
    return Pair(_grid(pair["input"], f"{where}: input"), None if output is None else _grid(output, f"{where}: output"))


def _grid(rows: Any, where: str) -> Colours:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        raise ValueError(f"{where}: a grid is a list of rows, each a list of colours, none of them empty")
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise ValueError(f"{where}: row {number} has {len(row)} cells, the first has {len(rows[0])}")
        for column, cell in enumerate(row, 1):
            if type(cell) is not int or not 0 <= cell <= 9:
                raise ValueError(
                    f"{where}: row {number}, column {column}: {json.dumps(cell)} is no colour; "
                    "a cell is a whole number from 0 to 9"
                )
    return np.array(rows, dtype=np.uint8)
