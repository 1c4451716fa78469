"""What every model offers the rest of the house: a training step, its parameters by component, its arithmetic cost.

A file in this folder is an architecture. It defines `Config` (a `ModelConfig`) and `build(config) -> Model`; the
recipe's `model.family` is the file's name. The trainer knows `Model`, generation and evaluation know `LanguageModel`,
nobody knows an architecture.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from eco.config import Config, setting

IGNORE = -100
"""A target with this value carries no loss (padding)."""

Batch = dict[str, Tensor]
"""One micro-batch. It has `tokens` (B, T) int64 and `targets` (B, T) int64, IGNORE where none.

A puzzle's also has `puzzle` (B,) int64, its row in the puzzle table. Where the model carries samples on, `fresh` (B,)
bool are the rows whose sample is new.
"""

Carry = dict[str, Tensor]
"""What a model keeps of each sample from one step to the next: name -> (B, ...), without gradient.

`halted` (B,) bool is always there: the rows that are done with their sample. The next batch has a fresh sample in these
and the same one in all others.
"""


class ModelConfig(Config):
    """Common to all architectures: the name of the file that implements it."""

    family: str = setting(..., "Architecture: the name of a file in eco/models.", flat="family")


class LanguageModelConfig(ModelConfig):
    """Common to all language models."""

    vocab_size: int = setting(0, "Rows of the embedding; 0 takes the tokenizer's size.", flat="vocab-size", ge=0)
    context: int = setting(256, "Longest sequence in tokens, and the training window.", flat="seq-len", gt=0)

    def for_tokenizer(self, vocab_size: int, end: int) -> Self:
        """With what is left to the tokenizer filled in: its size, and in some architectures its token `end` of text."""
        return self if self.vocab_size else self.model_copy(update={"vocab_size": vocab_size})

    def fit(self) -> dict[str, Any]:
        """What a checkpoint must have in common with a model that goes on from it, as plain data."""
        return self.model_dump(mode="json")


@dataclass
class StepOutput:
    """What one forward pass in training yields.

    losses: name -> scalar, the mean over the samples of the micro-batch; the recipe weighs and adds them.
    metrics: name -> number or detached scalar, or (B,) with NaN for rows that have none, of which the mean is logged.
    carry: the state that the next step of the same rows starts from; None for a model that is done after one.
    """

    losses: dict[str, Tensor]
    metrics: dict[str, float | Tensor] = field(default_factory=dict)
    carry: Carry | None = None


class Cache(Protocol):
    """What a language model keeps between calls of `forward` while it generates."""

    length: int
    """Positions already written, padding included."""

    def keep(self, rows: Tensor) -> None:
        """Keeps only the batch rows `rows` (int64 indices): finished rows leave the batch."""
        ...

    def branch(self, rows: Tensor, count: int, shared: bool) -> None:
        """Goes on with the batch rows `rows` (int64 indices, also repeated) and room for `count` positions more.

        shared: what is cached so far stays where it is, once for all rows that go on from it. From then on only the
        fused step can read the cache.
        """
        ...


class Model(nn.Module, ABC):
    """A trainable model. Parameters are fp32; the trainer chooses the compute dtype through `torch.autocast`."""

    config: ModelConfig
    loss_weights: Mapping[str, float] = MappingProxyType({})
    """Weight of each loss where the recipe gives none; 1 where this does not either."""

    carries: bool = False
    """True: works on a sample over several steps, so that `training_step` returns a carry."""

    gradient_checkpointing: bool = False
    """True: recompute each block's activations in the backward pass instead of storing them."""

    features: tuple[str, ...] = ()
    """The optional parts that this model has, for the ledger."""

    labels: frozenset[str] = frozenset()
    """What its losses read of a batch beside tokens and targets, by the names of `eco.data.labels`."""

    main_losses: frozenset[str] | None = None
    """The losses that training is about; others are auxiliary and may warm in. None: all are."""

    @abstractmethod
    def init_weights(self, generator: torch.Generator) -> None:
        """Fills every parameter and buffer, drawing only from `generator` (on the CPU, so equal on all devices)."""

    @abstractmethod
    def training_step(self, batch: Batch, carry: Carry | None = None) -> StepOutput:
        """The losses of one micro-batch, with gradient. carry: that of the step before for the same rows, if any."""

    def evidence(self) -> dict[str, float]:
        """Feature -> how strongly it acts in this step. The trainer asks once the gradients are there, before it clips
        them; 0 is no effect."""
        return {}

    def forget_step(self) -> None:
        """Called where the step in hand begins anew, because memory ran out: drops what `training_step` and the
        backward passes of it left in the model."""
        return

    def after_step(self, average: Callable[[Iterable[Tensor]], None] | None = None) -> None:
        """Called by whoever trains at the end of each step, also of one whose update was skipped.

        average: replaces tensors by their mean over all processes that train together, in place; None: there is one.
        """
        self.weights_changed()

    def weights_changed(self) -> None:
        """Drops what was computed from the weights and kept. Called after every step, and where the weights are swapped
        with their average; layers notice loading by themselves."""

    @abstractmethod
    def flops_per_token(self) -> float:
        """Floating-point operations of one training token, forward and backward, at full context.

        Six for each weight that takes part in a matrix product, plus 12 x layers x width x context for attention
        (the non-causal convention, as in PaLM, arXiv 2204.02311, appendix B).
        """

    def algorithmic_features(self) -> dict[str, float]:
        """What the model is made of: told at start, and in crash reports."""
        return {}

    def parameter_table(self) -> dict[str, int]:
        """Component -> its number of trainable parameters; each counts once, a tied one where it is first."""
        table: dict[str, int] = {}
        for name, parameter in self.named_parameters():
            component = ".".join(part for part in name.split(".")[:-1] if not part.isdigit()) or name
            table[component] = table.get(component, 0) + parameter.numel()
        return table


class LanguageModel(Model):
    """A causal model over tokens."""

    config: LanguageModelConfig

    left_padding: bool = True
    """False: `new_cache` takes no padding, so that all rows of a batch must be equally long."""

    @abstractmethod
    def forward(self, tokens: Tensor, cache: Cache | None = None, *, last_only: bool = False) -> Tensor:
        """Logits (B, T, V) of the token after each of `tokens` (B, T), which follow the `cache.length` cached ones.

        last_only: (B, 1, V), for the last of them alone: a long prompt's other logits can take more than its cache.
        """

    @abstractmethod
    def new_cache(self, batch: int, length: int, padding: Tensor | None = None) -> Cache:
        """An empty cache for `batch` rows of at most `length` positions, on the model's device.

        padding: (B,) int64, how many of each row's first positions are left padding, to be seen by no token; positions
        are counted from the first real token.
        """

    def fused_step(self) -> Callable[[Tensor, Cache], Tensor] | None:
        """A faster `forward` for one new token of each row, (B,) int64 and the cache -> logits (B, V); None: none here.

        It computes in fp32, without gradient. It reads the weights where they lie: ask again once they were moved.
        """
        return None


class PuzzleModelConfig(ModelConfig):
    """Common to all models of puzzles. What is 0 is taken from the puzzles."""

    vocab_size: int = setting(0, "Distinct tokens of a cell, padding included; 0 takes the puzzle's.", ge=0)
    length: int = setting(0, "Cells of a grid; 0 takes the puzzle's.", ge=0)
    identifiers: int = setting(0, "Rows of the puzzle table, the blank one included; 0 takes the puzzles'.", ge=0)


class Latent(NamedTuple):
    """What a recursive model thinks of each puzzle, (B, S, D) both: the answer so far and the scratch it works on."""

    answer: Tensor
    scratch: Tensor


class RecursiveModel(Model):
    """A model that improves its answer to a puzzle step by step; a step is what training supervises."""

    config: PuzzleModelConfig
    max_steps: int
    """Steps after which training gives a puzzle up, and which evaluation always makes."""

    @abstractmethod
    def encode(self, tokens: Tensor, puzzle: Tensor) -> Tensor:
        """The question (B, S, D) of `tokens` (B, L) int64 under the rows `puzzle` (B,) int64 of the puzzle table."""

    @abstractmethod
    def start(self, question: Tensor) -> Latent:
        """The state before the first step."""

    @abstractmethod
    def improve(self, question: Tensor, latent: Latent) -> Latent:
        """One step. Only its last cycle carries gradient, and none comes from the state it starts from."""

    @abstractmethod
    def read(self, latent: Latent) -> tuple[Tensor, Tensor]:
        """Logits (B, L, V) of every cell, and (B,) fp32 of the answer being right."""


def build_model(build: Any, config: ModelConfig, seed: int, device: torch.device) -> Model:
    """Builds a model, its memory touched once and the global random state never, then draws its weights from `seed`."""
    with torch.device("meta"):
        model: Model = build(config)
    model = model.to_empty(device=device)
    model.init_weights(torch.Generator().manual_seed(seed))
    return model


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; the mode it had comes back."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
