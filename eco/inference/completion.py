"""What generation returns."""

from dataclasses import dataclass
from typing import Literal

Finish = Literal["stop", "eos", "length"]


@dataclass(frozen=True)
class Completion:
    """One continuation of a prompt.

    text: the continuation without the prompt, up to the stop string or EOS. Bytes that are no UTF-8, such as a
        character cut by the length limit, appear as U+FFFD.
    prompt: the tokens that it continues; see `healing` for a prompt that ends in white space.
    tokens: all sampled tokens, those that completed the stop string and EOS included.
    logprobs: for each token the natural logarithm of the model's own probability, before temperature and filters.
    finish: "stop" (a stop string), "eos" (the model ended the document) or "length" (`max_new_tokens`, or the model's
        context is full).
    """

    text: str
    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]
    finish: Finish
