"""Completions as a policy sees them: which tokens it chose, how probable they were, how sure it was of itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eco.inference.completion import Completion
from eco.models.contract import LanguageModel, evaluating
from eco.training.precision import Precision

POSITIONS = 8192
"""Most positions (rows x the longest row) that a model is given at once, which bounds the memory of a step."""


@dataclass(frozen=True)
class Sequences:
    """Prompts with their completions, padded on the right.

    tokens: (B, T) int64, what the model reads.
    targets: (B, T) int64, the token that followed each.
    mask: (B, T) bool, True where the target is a token that was sampled: not in the prompt, not in the padding, and
        so never after EOS or a stop string, which are the last tokens sampled.
    """

    tokens: Tensor
    targets: Tensor
    mask: Tensor

    @classmethod
    def of(cls, completions: Sequence[Completion]) -> "Sequences":
        """The completions on the CPU, as wide as the longest of them."""
        longest = max(len(c.prompt) + len(c.tokens) for c in completions)
        whole = np.zeros((len(completions), longest), dtype=np.int64)
        mask = np.zeros(whole.shape, dtype=bool)
        for row, c in enumerate(completions):
            size = len(c.prompt) + len(c.tokens)
            whole[row, :size] = c.prompt + c.tokens
            mask[row, len(c.prompt) : size] = True
        return cls(torch.from_numpy(whole[:, :-1]), torch.from_numpy(whole[:, 1:]), torch.from_numpy(mask[:, 1:]))

    def to(self, device: torch.device) -> "Sequences":
        return Sequences(self.tokens.to(device), self.targets.to(device), self.mask.to(device))


class Scored(NamedTuple):
    """Of each sampled token, (B, T) fp32 both and 0 where the mask is False: ln of its probability, and the entropy in
    nats of the whole distribution that it was drawn from."""

    log_probs: Tensor
    entropy: Tensor


def score(model: LanguageModel, sequences: Sequences, temperature: float, vocab_size: int) -> Scored:
    """The policy's view of `sequences`, on the model's device, with gradient where that is enabled.

    temperature: divides the logits, as it did when the tokens were drawn; filters such as top-p are left out.
    vocab_size: tokens that can be drawn, V; a model may have more rows than that.

    The softmax is taken in fp32 and only where the mask is True, so that its memory is (sampled tokens, V).
    """
    mask = sequences.mask
    logits = model(sequences.tokens)[mask][:, :vocab_size].float() / temperature
    log_probs = logits.log_softmax(-1)
    chosen = log_probs.gather(-1, sequences.targets[mask][:, None])[:, 0]
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    empty = torch.zeros(mask.shape, device=mask.device)
    return Scored(empty.masked_scatter(mask, chosen), empty.masked_scatter(mask, entropy))


def in_batches(completions: Sequence[Completion]) -> Iterator[list[int]]:
    """The numbers of all completions, those of similar length together, at most POSITIONS positions at a time."""
    sizes = [len(c.prompt) + len(c.tokens) for c in completions]
    batch: list[int] = []
    for at in sorted(range(len(completions)), key=lambda at: sizes[at], reverse=True):
        if batch and (len(batch) + 1) * sizes[batch[0]] > POSITIONS:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


@torch.no_grad()
def mean_entropy(
    model: LanguageModel, completions: Sequence[Completion], precision: Precision, vocab_size: int
) -> float:
    """Nats a token: the mean entropy, at temperature 1, of the distributions that the completions' tokens came from.

    It is summed over the whole vocabulary. The common shortcut, the mean of -ln p of the sampled tokens, agrees with it
    only on average over many samples of the same policy.
    """
    total, tokens = 0.0, 0
    for batch in in_batches(completions):
        sequences = Sequences.of([completions[at] for at in batch]).to(precision.device)
        with evaluating(model), precision.autocast():
            total += float(score(model, sequences, 1.0, vocab_size).entropy.sum(dtype=torch.float64))
        tokens += int(sequences.mask.sum())
    return total / max(1, tokens)
