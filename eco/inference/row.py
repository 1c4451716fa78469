"""One continuation while it grows."""

from dataclasses import dataclass, field

from torch import Tensor

from eco.inference.completion import Completion, Finish
from eco.inference.text import GrowingText


@dataclass
class Row:
    """prompt: its tokens. taken_back: see `healing`; bytes that the first new token begins with.

    limit: most tokens that may follow it. uniforms: (limit,) float64, one for each of them.
    """

    prompt: list[int]
    taken_back: bytes
    limit: int
    uniforms: Tensor
    text: GrowingText
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, token: int, logprob: float, piece: bytes | None) -> None:
        """Takes the next token, and sets `finish` if it is the last. piece: the bytes it stands for, None for EOS."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if piece is None:
            self.finish = "eos"
        elif self.text.add(piece):
            self.finish = "stop"
        elif len(self.tokens) == self.limit:
            self.finish = "length"

    def completion(self) -> Completion:
        """The finished continuation."""
        assert self.finish is not None
        return Completion(self.text.show(final=True), self.prompt, self.tokens, self.logprobs, self.finish)
