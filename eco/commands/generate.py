"""`eco generate RUN --prompt TEXT`."""

import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from eco.commands.arguments import print_json, read
from eco.inference.sampling import Sampling
from eco.jobs.load import load_language


@dataclass(frozen=True)
class Arguments:
    """Let the model of a run continue a prompt. The text is streamed as it is written."""

    run: tyro.conf.Positional[str]
    """The run directory."""
    prompt: str
    """The text to continue; `-` reads it from standard input."""
    samples: int = 1
    """How many continuations; more than one are computed as a batch."""
    checkpoint: str = "best"
    """Which weights: best, last, or a step."""
    control: str | None = None
    """Write as documents of these metadata do: quality, alignment, priority, decay, as in quality=1.0,priority=high."""
    guidance: float | None = None
    """How strongly the control counts: 1 as in training (unless given), above 1 exaggerates it."""
    json: bool = False
    """Print JSON with text, tokens and why each continuation ended."""
    sampling: Annotated[Sampling, tyro.conf.OmitArgPrefixes] = field(default_factory=Sampling)


def run(words: list[str]) -> int:
    arguments = read(Arguments, words, "generate")
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    trained = load_language(arguments.run, arguments.checkpoint)
    engine = trained.controlled(arguments.control, arguments.guidance)
    if arguments.json or arguments.samples != 1:
        completions = engine.generate([prompt], arguments.sampling, samples=arguments.samples)[0]
        if arguments.json:
            texts = [{"text": c.text, "tokens": len(c.tokens), "finish": c.finish} for c in completions]
            print_json({"run": str(trained.path), "step": trained.step, "prompt": prompt, "completions": texts})
        else:
            print("\n\n".join(f"--- {i + 1}\n{prompt}{c.text}" for i, c in enumerate(completions)))
        return 0
    print(prompt, end="", flush=True)
    for piece in engine.stream(prompt, arguments.sampling):
        print(piece, end="", flush=True)
    print()
    return 0
