"""`eco solve RUN --puzzle FILE`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from eco.commands.arguments import print_json, read
from eco.inference.search import Answer, Search
from eco.jobs.load import load_solver
from eco.observe.drawing import Panel, as_text, draw_solution, rows_of
from eco.observe.run import RunPaths
from eco.tasks.puzzles.contract import PuzzleTask


@dataclass(frozen=True)
class Arguments:
    """Let the model of a run solve puzzles, draw how, and say how sure it is."""

    run: tyro.conf.Positional[str]
    """The run directory."""
    puzzle: str
    """A file of puzzles as people write them; `-` reads standard input."""
    checkpoint: str = "best"
    """Which weights: best, last, or a step."""
    steps: int | None = None
    """Steps of each path; without it, as many as training allowed."""
    png: str | None = None
    """Where the picture goes; without it, the run's samples folder, and with --json there is none."""
    json: bool = False
    """Print JSON with the answers, after each step too, and how sure the model is."""
    search: Annotated[Search, tyro.conf.OmitArgPrefixes] = field(default_factory=Search)


def run(words: list[str]) -> int:
    arguments = read(Arguments, words, "solve")
    trained = load_solver(arguments.run, arguments.checkpoint)
    text = _read(arguments.puzzle)
    name = "" if arguments.puzzle == "-" else Path(arguments.puzzle).stem
    answers = trained.solve(text, name, arguments.steps, **arguments.search.model_dump())
    pictures: list[Path | None] = [None] * len(answers)
    if arguments.png or not arguments.json:
        first = Path(arguments.png) if arguments.png else _default_picture(trained.path, arguments.puzzle)
        first.parent.mkdir(parents=True, exist_ok=True)
        paths = _numbered(first, len(answers))
        pictures = [_picture(trained.task, *pair) for pair in zip(paths, answers, strict=True)]
    if arguments.json:
        rows = [_row(trained.task, answer, picture) for answer, picture in zip(answers, pictures, strict=True)]
        print_json({"run": str(trained.path), "step": trained.step, "answers": rows})
        return 0
    console = Console(soft_wrap=True, highlight=False)
    for answer, picture in zip(answers, pictures, strict=True):
        _show(console, trained.task, answer, picture)
    if len(answers) > 1 and trained.task.has_rules:
        solved = sum(answer.verdict.outcome == "pass" for answer in answers)
        console.print(f"solved {solved} of {len(answers)}")
    return 0


def _read(source: str) -> str:
    """
    Raises:
        ValueError: the file cannot be read as text.
    """
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the puzzle file {source}: {error}") from error


def _default_picture(run: Path, source: str) -> Path:
    return RunPaths(run).samples / f"{'puzzle' if source == '-' else Path(source).stem}.png"


def _numbered(path: Path, count: int) -> list[Path]:
    """One path for each of several pictures: NAME-1.png, NAME-2.png, ..."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{i + 1}") for i in range(count)]


def _picture(task: PuzzleTask, path: Path, answer: Answer) -> Path:
    puzzle, solution = _panels(task, answer)
    inputs = answer.question.inputs
    steps = [
        Panel(f"step {i + 1}: {percent(sure)} sure", task.cells(inputs, grid))
        for i, (grid, sure) in enumerate(zip(answer.steps, answer.confidence, strict=True))
    ]
    return draw_solution(path, puzzle, solution, steps)


def _panels(task: PuzzleTask, answer: Answer) -> tuple[Panel, Panel]:
    inputs = answer.question.inputs
    return Panel(answer.question.name or "puzzle", task.cells(inputs)), Panel("answer", task.cells(inputs, answer.grid))


def _show(console: Console, task: PuzzleTask, answer: Answer, picture: Path | None) -> None:
    coloured = console.is_terminal and not console.no_color
    console.print(as_text(_panels(task, answer), console.width, coloured))
    console.print("\n" + "\n".join(sentences(answer, task.has_rules)), markup=False)
    console.print(f"picture: {picture}\n", markup=False)


def sentences(answer: Answer, judged: bool = True) -> list[str]:
    """What there is to say of an answer, a line each. judged: the verdict tells right from wrong."""
    steps, sure = len(answer.steps), percent(answer.confidence[-1])
    passed = answer.verdict.outcome == "pass"
    state = "solved after step" if passed and judged else "the answer stands since step"
    state = state if passed else f"not solved; {state}"
    lines = [f"{state} {answer.settled} of {steps}; the halting head is {sure} sure"]
    if answer.verdict.detail:
        lines.append(answer.verdict.detail)
    if len(answer.scores) > 1:
        plain = percent(answer.scores[0])
        lines.append(f"path {answer.path + 1} of {len(answer.scores)}; the first, without noise, is {plain} sure")
    if not answer.known:
        name = f"{answer.question.name!r}" if answer.question.name else "a puzzle without a name"
        lines.append(f"the model was not trained on {name} and knows puzzles by their names: it can only guess")
    return lines


def percent(share: float) -> str:
    """0.981 -> `98 %`; what is not quite all or nothing does not round to it."""
    return "over 99 %" if share > 0.995 else "under 1 %" if share < 0.005 else f"{100 * share:.0f} %"


def _row(task: PuzzleTask, answer: Answer, picture: Path | None) -> dict[str, Any]:
    """Without a judge (`has_rules`), nothing but a failure is told of the outcome."""
    inputs = answer.question.inputs
    told = task.has_rules or answer.verdict.outcome == "fail"
    return {
        "name": answer.question.name,
        "known": answer.known,
        "question": rows_of(task.cells(inputs)),
        "answer": rows_of(task.cells(inputs, answer.grid)),
        "outcome": answer.verdict.outcome if told else None,
        "score": answer.verdict.score if told else None,
        "detail": answer.verdict.detail,
        "settled": answer.settled,
        "confidence": answer.confidence.tolist(),
        "steps": [rows_of(task.cells(inputs, grid)) for grid in answer.steps],
        "path": answer.path,
        "path_confidence": answer.scores.tolist(),
        "png": str(picture) if picture else None,
    }
