"""The smallest policy there is: one choice among tokens, whatever the prompt."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from eco.improvement.attempt import Attempt
from eco.improvement.learn.student import Student
from eco.inference.completion import Completion
from eco.models.contract import LanguageModel, LanguageModelConfig
from eco.optim import adamw
from eco.tasks.verdict import Verdict
from eco.training.precision import Precision


class Bandit(LanguageModel):
    """The same logits at every position; `logits` (V,) are its only weights."""

    def __init__(self, logits):
        super().__init__()
        self.config = LanguageModelConfig(family="bandit", context=8, vocab_size=len(logits))
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, tokens, cache=None, *, last_only=False):
        return self.logits.expand(*tokens.shape, -1)

    def init_weights(self, generator): ...
    def training_step(self, batch, carry=None): ...
    def flops_per_token(self): ...
    def new_cache(self, batch, length, padding=None): ...

    @property
    def chances(self):
        return self.logits.detach().double().softmax(0)


def student_of(model, vocab_size, corpus=None):
    """`model` as the loop holds it, with AdamW that does not decay weights, in fp32."""
    return Student(
        model=model, tokenizer=SimpleNamespace(vocab_size=vocab_size), precision=Precision("fp32", torch.device("cpu")),
        optimizer=adamw.Config(lr=0.1, weight_decay=0.0), corpus=corpus, held_out=dict, rebuild=lambda: model,
    )  # fmt: skip


def attempt(tokens, passed, prompt=(0,)):
    completion = Completion(str(tokens), list(prompt), list(tokens), [0.0] * len(tokens), "length")
    return Attempt(None, str(prompt), completion, Verdict("pass" if passed else "fail", float(passed)))


def pulls(model, count, seed, good):
    """A group of `count` completions of one token each; those of the token `good` pass."""
    drawn = np.random.default_rng(seed).choice(len(model.chances), count, p=model.chances.numpy())
    return [attempt([token], token == good) for token in drawn.tolist()]
