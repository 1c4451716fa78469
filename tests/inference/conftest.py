"""A tokenizer of bytes and a model that recites: what generation must do can then be read off a script."""

from collections.abc import Callable, Sequence

import pytest
import torch
from byte_tokenizer import Bytes
from torch import Tensor, nn

from eco.models.contract import Batch, Cache, LanguageModel, LanguageModelConfig, StepOutput


class ReciterCache:
    def __init__(self, padding: Tensor) -> None:
        self.length = 0
        self.padding = padding

    def keep(self, rows: Tensor) -> None:
        self.padding = self.padding[rows]

    def branch(self, rows: Tensor, count: int, shared: bool) -> None:
        assert not shared
        self.keep(rows)


class Reciter(LanguageModel):
    """After n real tokens, whatever they were, it gives `script[n mod its length]` a logit of `peak`, the others 0."""

    def __init__(self, script: Sequence[int], context: int, peak: float) -> None:
        super().__init__()
        self.config = LanguageModelConfig(family="reciter", vocab_size=260, context=context)
        self.table = nn.Parameter(peak * nn.functional.one_hot(torch.tensor(script), 260).float())
        self.widths: list[int] = []

    def forward(self, tokens: Tensor, cache: Cache | None = None, *, last_only: bool = False) -> Tensor:
        assert isinstance(cache, ReciterCache)
        self.widths.append(tokens.shape[0])
        places = cache.length + torch.arange(tokens.shape[1])[None] - cache.padding[:, None]
        cache.length += tokens.shape[1]
        logits = self.table[(places + 1) % len(self.table)]
        return logits[:, -1:] if last_only else logits

    def new_cache(self, batch: int, length: int, padding: Tensor | None = None) -> ReciterCache:
        return ReciterCache(torch.zeros(batch, dtype=torch.int64) if padding is None else padding)

    def init_weights(self, generator: torch.Generator) -> None: ...

    def training_step(self, batch: Batch, carry: object = None) -> StepOutput:
        raise NotImplementedError

    def flops_per_token(self) -> float:
        return 0.0


@pytest.fixture
def byte_tokenizer() -> Bytes:
    return Bytes()


@pytest.fixture
def reciter() -> Callable[..., Reciter]:
    def make(script: str | list[int], context: int = 64, peak: float = 50.0) -> Reciter:
        return Reciter(list(script.encode()) if isinstance(script, str) else script, context, peak)

    return make
