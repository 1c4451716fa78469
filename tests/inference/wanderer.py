"""A recursive model that guesses at random from its state, and a halting head that knows whether it guessed right."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from eco.inference.recursion import Step, advance
from eco.models.contract import Batch, Latent, PuzzleModelConfig, RecursiveModel, StepOutput

VOCAB = 5


class Wanderer(RecursiveModel):
    """The first cell's answer is a hash of the state, the others copy the question. Right is a 1 in the first cell.

    The state moves by a chaotic map of its own numbers and of the question, so each step and each bit of noise counts.
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.config = PuzzleModelConfig(family="wanderer", vocab_size=VOCAB, length=4, identifiers=3)
        self.max_steps = 6
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(VOCAB, width, generator=generator))
        self.rows = nn.Parameter(torch.randn(3, width, generator=generator))
        self.improved = 0

    def encode(self, tokens: Tensor, puzzle: Tensor) -> Tensor:
        return self.table[tokens] + self.rows[puzzle][:, None]

    def start(self, question: Tensor) -> Latent:
        return Latent(torch.ones_like(question), torch.ones_like(question))

    def improve(self, question: Tensor, latent: Latent) -> Latent:
        self.improved += 1
        scratch = torch.sin(7 * (latent.scratch + latent.answer.roll(1, -1) + question))
        return Latent(torch.cos(5 * (latent.answer + scratch + question.sum(1, keepdim=True))), scratch)

    def read(self, latent: Latent) -> tuple[Tensor, Tensor]:
        fraction = (latent.answer.sum((1, 2)) * 10).frac().abs()
        guess = (fraction * VOCAB).long().clamp(max=VOCAB - 1)
        logits = latent.scratch[..., :VOCAB].clone()
        logits[:, 0] = 9.0 * nn.functional.one_hot(guess, VOCAB)
        return logits, torch.where(guess == 1, 20.0, -20.0) + fraction

    def init_weights(self, generator: torch.Generator) -> None: ...

    def training_step(self, batch: Batch, carry: object = None) -> StepOutput:
        raise NotImplementedError

    def flops_per_token(self) -> float:
        return 0.0


def plain(model: RecursiveModel, tokens: Tensor, puzzle: Tensor, steps: int) -> Iterator[Step]:
    """The steps of the recursion from its start, undisturbed."""
    question = model.encode(tokens, puzzle)
    for _, step in advance(model, question, model.start(question), steps):
        yield step
