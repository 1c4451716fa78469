"""What all language models with one embedding and one head share: logits, the loss, tied or untied output."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eco.kernels.cross_entropy import linear_cross_entropy, weighted_cross_entropy
from eco.models.contract import IGNORE, Batch, Cache, Carry, LanguageModel, StepOutput


class HeadedModel(LanguageModel):
    """Hidden states between an `embedding` and a head.

    head: None ties the output to the embedding.
    """

    embedding: nn.Embedding
    blocks: nn.ModuleList
    head: nn.Linear | None

    @abstractmethod
    def hidden(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Final hidden states (B, T, width), after the last norm: what the head reads."""

    @property
    def head_weight(self) -> Tensor:
        """The output matrix (V, width), the embedding's own where they are tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    def forward(self, tokens: Tensor, cache: Cache | None = None, *, last_only: bool = False) -> Tensor:
        hidden = self.hidden(tokens, cache)
        return F.linear(hidden[:, -1:] if last_only else hidden, self.head_weight)

    def training_step(self, batch: Batch, carry: Carry | None = None) -> StepOutput:
        return self.language_loss(self.hidden(batch["tokens"]), batch)

    def run_block(self, index: int, inputs: Sequence[Any], keep: bool) -> Any:
        """blocks[index](*inputs); computed again in the backward pass where `gradient_checkpointing` asks for that.

        keep: there may be a backward pass.
        """
        block = self.blocks[index]
        if keep and self.gradient_checkpointing:
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def language_loss(self, hidden: Tensor, batch: Batch) -> StepOutput:
        """The loss `lm` of final hidden states (B, T, width): the mean cross-entropy in nats over the targets that are
        not IGNORE, each times its `weight` where the batch has weights; then without them it is a metric."""
        tensors = hidden.flatten(0, 1), self.head_weight, batch["targets"].flatten()
        if "weight" not in batch:
            return StepOutput({"lm": linear_cross_entropy(*tensors, IGNORE)})
        weighted, plain = weighted_cross_entropy(*tensors, batch["weight"].flatten(), IGNORE)
        rows = len(batch["tokens"])  # so that the mean over micro-batches is logged, as of the loss
        return StepOutput({"lm": weighted}, {"lm_unweighted": plain.expand(rows)})
