"""What the tests of drawing share: engines that are told their answers, a real one of random weights, attempts."""

from collections.abc import Callable
from types import SimpleNamespace

import torch

from eco.improvement.attempt import Attempt
from eco.inference.completion import Completion
from eco.inference.engine import Engine
from eco.models import decoder
from eco.models.contract import build_model
from eco.tasks.generate.examples import Example
from eco.tasks.generate.program import ProgramTask
from eco.tasks.verdict import Verdict


class Crib(Engine):
    """Answers the sample `number` of a prompt by `answer(prompt, number, seed)`; `asked` holds all calls."""

    def __init__(self, answer: Callable[[str, int, int], str], context: int = 4000) -> None:
        super().__init__(SimpleNamespace(config=SimpleNamespace(context=context)), SimpleNamespace(encode=list))
        self.answer = answer
        self.asked = []

    def generate(self, prompts, sampling, samples=1):
        self.asked.append((list(prompts), sampling, samples))
        seen = dict.fromkeys(prompts, 0)
        rows = []
        for prompt in prompts:
            first, seen[prompt] = seen[prompt], seen[prompt] + samples
            texts = [self.answer(prompt, first + number, sampling.seed) for number in range(samples)]
            rows.append([Completion(text, [], [], [], "eos") for text in texts])
        return rows


class Bytes:
    """One token for each byte, and EOS."""

    eos, vocab_size = 256, 257

    def encode(self, text):
        return list(text.encode())

    def decode_bytes(self, ids):
        return bytes(i for i in ids if i != self.eos)


def untrained(context=96):
    """A real engine of random weights."""
    config = decoder.Config(width=16, layers=1, heads=2, context=context, vocab_size=257)
    return Engine(build_model(decoder.build, config, 0, torch.device("cpu")), Bytes())


def doubling(name="double", expected=(2, 4, 6)):
    """The task to return twice the value."""
    hidden = tuple(Example(value, result) for value, result in zip((1, 2, 3), expected, strict=True))
    signature = "def solve(value):\n"
    return ProgramTask(name, f"{signature}    # twice: {name}\n", signature, "    return 2 * value\n", hidden)


def given(task, text, outcome="fail", score=0.0, detail="", retry=0):
    """An attempt as if it had been drawn and judged."""
    completion = Completion(text, [], [], [], "eos")
    return Attempt(task, task.prompt, completion, Verdict(outcome, score, detail), retry)
