"""The front door: `eco COMMAND ...`. A command's module is imported only when it is called."""

import importlib
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "demo": "train a small model on the standard library's source, start to finish in minutes",
    "data": "build a library of documents to train on, such as the King James Version by book and chapter",
    "train": "train a recipe; goes on by itself where a run was stopped",
    "resume": "go on with the run in a run directory",
    "generate": "let a trained model continue a prompt",
    "improve": "let a trained model write programs, learn from those that pass, and prove that it helped",
    "trace": "watch a trained model read a text: surprisal, attention and importance of each token",
    "eval": "measure a trained model on what was held out",
    "prove": "measure what a feature brings, on against off at equal compute, and that off is as if it never was",
    "solve": "let a trained model solve a puzzle, and draw how",
    "sandbox": "how well this machine can contain untrusted code; `eco sandbox test` attacks it",
    "store": "what a run has learnt from its own verified answers; roll it back",
    "pack": "pack a trained model for download, with its card and what its validation needs",
    "validate": "check a packed model in a process that has nothing but the archive",
    "compare": "trained models side by side: held-out loss, recall, quality, speed and memory",
    "pipeline": "train the models of a pipeline one after the other, pack, validate and compare them",
    "plot": "draw a run's curves as PNG files",
    "checkpoints": "list or verify the checkpoints of a run",
    "recipes": "list the recipes that ship with Eco",
    "doctor": "what this machine can do, and what is missing",
}
"""Command -> one line. The command `x` is `run(words) -> exit status` in eco/commands/x.py."""

FAILED, USAGE = 1, 2


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status. Errors meant for users are one message, `--debug` shows the trace."""
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else USAGE
    if words[0] == "--version":
        print(importlib.import_module("eco").__version__)
        return 0
    command, *rest = words
    if command not in COMMANDS:
        nearest = importlib.import_module("eco.config").nearest(command, list(COMMANDS))
        print(f"eco: no command {command!r}{nearest}; `eco --help` lists them", file=sys.stderr)
        return USAGE
    debug = "--debug" in rest
    return _call(command, [word for word in rest if word != "--debug"], debug)


def eco_train(words: Sequence[str] | None = None) -> int:
    """`eco_train @flags.txt [--more flags]`: `eco train` with flat flags; `--recipe NAME` chooses what they refine."""
    return main(["train", "demo", *(sys.argv[1:] if words is None else words)])


def _call(command: str, words: list[str], debug: bool) -> int:
    try:
        status: int = importlib.import_module(f"eco.commands.{command}").run(words)
        return status
    except KeyboardInterrupt:
        print("eco: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output left, as in `eco recipes | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if debug:
            raise
        text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        print(f"eco {command}: {text}", file=sys.stderr)
        if not isinstance(error, ValueError):
            print("(--debug shows where)", file=sys.stderr)
        return FAILED


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: eco COMMAND ...", "", *lines, "", "`eco COMMAND --help` says more about one of them."])
