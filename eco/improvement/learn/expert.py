"""Expert iteration: learning from what was verified (ReST-EM, arXiv 2312.06585; STaR, arXiv 2203.14465).

The E-step drew completions and kept those that passed; this is the M-step: the likelihood of the kept ones rises, and
windows of the corpus beside them keep the model from unlearning what it knew.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from eco.data.tokenizer import Tokenizer
from eco.improvement.learn.config import LearnConfig
from eco.improvement.learn.policy import POSITIONS
from eco.improvement.learn.student import Student, clipped_step, scheduled
from eco.models.contract import IGNORE, Batch
from eco.training.callbacks import Row

LARGEST_NORM = 1.0


@dataclass(frozen=True)
class Example:
    """A prompt and the completion to learn, as tokens; the completion ends with the end-of-text token."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    @classmethod
    def encode(cls, tokenizer: Tokenizer, prompt: str, completion: str) -> "Example":
        return cls(tuple(tokenizer.encode(prompt)), (*tokenizer.encode(completion), tokenizer.eos))

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Update:
    """What an update did. corpus_windows: how many were read, so that the next update reads the following ones."""

    row: Row
    tokens: int
    corpus_windows: int


def learn(
    student: Student, examples: Sequence[Example], config: LearnConfig, steps: int, seed: int, corpus_first: int
) -> Update:
    """`steps` optimizer steps on a mix of examples and corpus; only completions carry loss in an example.

    examples: `config.rows` for each step, in order; those longer than the context are left out. Without any the corpus
    alone is learnt.

    Returns the mean losses over the last tenth of the steps, and what it took.
    """
    windows = corpus_windows(examples, config, student.model.config.context)
    optimizer = student.new_optimizer(config.lr)
    tokens = 0
    losses: list[dict[str, float]] = []
    with student.training((seed, 0)):
        for step in range(steps):
            scheduled(optimizer, step, steps, config.warmup)
            batches = {"corpus": student.corpus(corpus_first + step * windows, windows)}
            dealt = examples[step * config.rows : (step + 1) * config.rows]
            if fitting := [example for example in dealt if len(example) <= student.model.config.context + 1]:
                batches["examples"] = batch_of(fitting, student.tokenizer.pad)
            losses.append(_step(student, optimizer, batches, config))
            tokens += sum(batch["tokens"].numel() for batch in batches.values())
    last = losses[-math.ceil(steps / 10) :]
    row = {f"learn_{name}": float(np.mean([loss[name] for loss in last])) for name in last[0]}
    row |= {"learn_steps": steps, "learn_skipped": sum(loss["skipped"] for loss in losses)}
    return Update(row, tokens, steps * windows)


def corpus_windows(examples: Sequence[Example], config: LearnConfig, context: int) -> int:
    """Windows of the corpus in a step, so that they are `corpus_share` of its tokens, or all where nothing else is."""
    own = config.rows * mean_length(examples, context)
    return max(1, math.ceil(own * (config.corpus_share / (1 - config.corpus_share) + (not examples)) / context))


def tokens_per_step(examples: Sequence[Example], config: LearnConfig, context: int) -> float:
    """Of a step that takes such examples, padding left out."""
    own = config.rows * mean_length(examples, context) if examples else 0
    return own + corpus_windows(examples, config, context) * context


def mean_length(examples: Sequence[Example], context: int) -> float:
    return float(np.mean([len(example) for example in examples])) if examples else context


def batch_of(examples: Sequence[Example], pad: int) -> Batch:
    """`tokens` and `targets` (B, T) int64, padded on the right; prompts and padding carry no loss."""
    longest = max(map(len, examples)) - 1
    tokens = np.full((len(examples), longest), pad, dtype=np.int64)
    targets = np.full_like(tokens, IGNORE)
    for row, example in enumerate(examples):
        whole, size = example.prompt + example.completion, len(example) - 1
        tokens[row, :size] = whole[:-1]
        targets[row, len(example.prompt) - 1 : size] = example.completion
    return {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(targets)}


def _step(
    student: Student, optimizer: torch.optim.Optimizer, batches: dict[str, Batch], config: LearnConfig
) -> dict[str, float]:
    """One update by the mean loss of each part, weighed as its share of the tokens."""
    share = {"corpus": config.corpus_share if "examples" in batches else 1.0, "examples": 1 - config.corpus_share}
    row = {name: _add_gradient(student, batch, share[name]) for name, batch in batches.items()}
    return row | clipped_step(student, optimizer, LARGEST_NORM)


def _add_gradient(student: Student, batch: Batch, weight: float) -> float:
    """Adds that of `weight` times the mean loss of a batch, as many rows at a time as memory is meant for; returns
    the mean."""
    rows = max(1, POSITIONS // batch["tokens"].shape[1])
    scored = int((batch["targets"] != IGNORE).sum())
    mean = 0.0
    for first in range(0, len(batch["tokens"]), rows):
        part = student.moved({name: tensor[first : first + rows] for name, tensor in batch.items()})
        share = int((part["targets"] != IGNORE).sum()) / scored
        with student.precision.autocast():
            loss = student.model.training_step(part).losses["lm"]
        (loss * weight * share).backward()  # type: ignore[no-untyped-call]
        mean += float(loss.detach()) * share
    return mean
