"""`eco trace RUN --text TEXT`."""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from eco.commands.arguments import read
from eco.files import replacing
from eco.inference.trace import trace
from eco.jobs.load import load_language


@dataclass(frozen=True)
class Arguments:
    """Watch a run's model read a text: surprisal, attention, importance and concepts of each token, as JSON Lines."""

    run: tyro.conf.Positional[str]
    """The run directory."""
    text: str | None = None
    """The text to read."""
    file: str | None = None
    """A file with the text to read."""
    out: str = "trace.jsonl"
    """The file to write, one object for each token."""
    layers: str | None = None
    """The layers to look into, such as 0,5; all where none are given."""
    top: int = 5
    """How many attended positions, and concepts, of each token."""
    checkpoint: str = "best"
    """Which weights: best, last, or a step."""


def run(words: list[str]) -> int:
    arguments = read(Arguments, words, "trace")
    text, layers = _text(arguments), _layers(arguments.layers)
    trained = load_language(arguments.run, arguments.checkpoint)
    rows = trace(trained.model, trained.tokenizer, text, layers, arguments.top)
    surprisals, out = [], Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as file:
        for row in rows:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            surprisals.append(row["surprisal"])
    scored = [nats for nats in surprisals if nats is not None]
    mean = f", {sum(scored) / len(scored):.3f} nats a token" if scored else ""
    print(f"{arguments.out}: {len(surprisals)} tokens{mean}")
    return 0


def _text(arguments: Arguments) -> str:
    if (arguments.text is None) == (arguments.file is None):
        raise ValueError("which text? give either --text TEXT or --file FILE")
    if arguments.text is not None:
        return arguments.text
    try:
        return Path(str(arguments.file)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--file {arguments.file}: {error}") from error


def _layers(words: str | None) -> list[int] | None:
    try:
        return None if words is None else [int(word) for word in words.split(",")]
    except ValueError as error:
        raise ValueError(f"--layers {words}: give numbers with commas between them, such as 0,5") from error
